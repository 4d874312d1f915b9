"""The records of a measurement: the same each time, as they are and in the forms that the features need."""

import json
import random
from collections.abc import Iterator
from typing import Any

FEATURES = 10
LABELS_LATER = 1_000
"""After how many further records a label comes that comes by itself."""

_KEYS = 1_000
_STARTED_MS = 1_700_000_000_000

Row = dict[str, Any]
"""What `produce` takes: a key, a value, and the log's time in ms where it matters."""


def events(count: int) -> Iterator[dict[str, Any]]:
    """Yield the same records each time, one a millisecond, their labels a noisy line through the features."""
    rng = random.Random(0)
    weights = [rng.gauss(0, 1) for _ in range(FEATURES)]
    for index in range(count):
        x = [round(rng.gauss(0, 1), 4) for _ in range(FEATURES)]
        yield {
            "id": f"r-{index}",
            "ts": _STARTED_MS + index,
            "features": {f"feature_{i}": number for i, number in enumerate(x)},
            "label": sum(w * number for w, number in zip(weights, x, strict=True)) + rng.gauss(0, 1) > 0,
        }


def plain(count: int) -> Iterator[Row]:
    """Yield records with their labels in them."""
    for index, event in enumerate(events(count)):
        yield {"key": _key(index % _KEYS), "value": _encode(event)}


def keyed(count: int, *, keys: int, partitions: int) -> Iterator[Row]:
    """Yield the same records, their keys drawn from so many. Record N goes to partition N modulo `partitions`.

    A key is always in one partition, as Kafka's own partitioner has it.
    """
    rng = random.Random(1)
    for index, event in enumerate(events(count)):
        yield {
            "key": _key(rng.randrange(max(1, keys // partitions)) * partitions + index % partitions),
            "value": _encode(event),
        }


def unlabelled(count: int, *, started_ms: int) -> Iterator[Row]:
    """Yield the same records without their labels, from `started_ms` on by the log's time."""
    for index, event in enumerate(events(count)):
        del event["label"]
        yield {"key": _key(index % _KEYS), "value": _encode(event), "timestamp": started_ms + index}


def labels(count: int, *, started_ms: int) -> Iterator[Row]:
    """Yield the labels of the same records, in order, each so much later."""
    for index, event in enumerate(events(count)):
        label = {"id": event["id"], "label": event["label"], "ts": event["ts"] + LABELS_LATER}
        yield {"key": _key(index % _KEYS), "value": _encode(label), "timestamp": started_ms + index + LABELS_LATER}


def _key(number: int) -> bytes:
    return f"k-{number}".encode()


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()
