"""The records of a measurement: the same each time, as they are and in the forms that the features need."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

FEATURES = 10
LABELS_LATER = 1_000
"""After how many further records a label comes that comes by itself."""

_KEYS = 1_000
_STARTED_MS = 1_700_000_000_000

Row = dict[str, Any]
"""What `produce` takes: a key, a value, and the log's time in ms where it matters."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A topic of so many records, of `width` features, over `partitions`.

    `bad` is the share in percent that can't be handled. With `keys` the keys are drawn from so many, and without they
    come in turn. With `labels` the records have none in them, and that is the topic in which the labels come later.
    """

    name: str
    count: int
    partitions: int
    width: int = FEATURES
    bad: int = 0
    keys: int = 0
    labels: str = ""

    @property
    def good(self) -> int:
        """How many of the records can be handled."""
        return self.count - sum(is_bad(index, self.bad) for index in range(self.count))

    def rows(self) -> Iterator[Row]:
        """Yield the records, of which the first is for the first partition, the second for the second, and so on."""
        if self.keys:
            return keyed(self.count, keys=self.keys, partitions=self.partitions)
        return plain(self.count, width=self.width, bad=self.bad)


def events(count: int, *, width: int = FEATURES) -> Iterator[dict[str, Any]]:
    """Yield the same records each time, one a millisecond, their labels a noisy line through the features.

    The numbers have all the digits of a double, as what was computed has, and not the few of what was typed in.
    """
    rng = random.Random(0)
    weights = [rng.gauss(0, 1) for _ in range(width)]
    names = [f"feature_{i}" for i in range(width)]
    for index in range(count):
        x = [rng.gauss(0, 1) for _ in range(width)]
        yield {
            "id": f"r-{index}",
            "ts": _STARTED_MS + index,
            "features": dict(zip(names, x, strict=True)),
            "label": sum(w * number for w, number in zip(weights, x, strict=True)) + rng.gauss(0, 1) > 0,
        }


def plain(count: int, *, width: int = FEATURES, bad: int = 0) -> Iterator[Row]:
    """Yield records with their labels in them, so many in a hundred of them bad."""
    for index, event in enumerate(events(count, width=width)):
        value = _encode(event)
        yield {"key": _key(index % _KEYS), "value": _spoil(event, value, index) if is_bad(index, bad) else value}


def is_bad(index: int, share: int) -> bool:
    """Tell whether a record is one of the bad ones: so many in a hundred, spread over all partitions."""
    return (19 * index + 37 * (index // 64)) % 100 < share


def _spoil(event: dict[str, Any], value: bytes, index: int) -> bytes:
    """Make a record bad, in the ways that occur most, by turns: cut off, a feature without value, no features."""
    kind = index % 3
    if kind == 0:
        return value[:-2]
    if kind == 1:
        return _encode({**event, "features": {**event["features"], "feature_0": None}})
    return _encode({key: held for key, held in event.items() if key != "features"})


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
