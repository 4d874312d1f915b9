"""The records of a measurement: the same each time, plain and in the variants that the cases need."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

FEATURES = 10
LABELS_LATER = 1_000
"""The number of records between the features and a late label."""

_KEYS = 1_000
_STARTED_MS = 1_700_000_000_000

Row = dict[str, Any]
"""The arguments of `produce`: a key, a value, and the timestamp in ms if it matters."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A topic of `count` records with `width` features, over `partitions`.

    `bad` is the percentage of malformed records. With `keys` the keys are drawn at random from this number of keys, and
    without they come in turn. With `labels` the records have no labels, which come later in the topic of this name.
    `write` writes the records in another shape. Feeds with the same `answers` must give the same predictions.
    """

    name: str
    count: int
    partitions: int
    width: int = FEATURES
    bad: int = 0
    keys: int = 0
    labels: str = ""
    write: Callable[[int], Iterator[Row]] | None = None
    answers: str = ""

    @property
    def good(self) -> int:
        """The number of good records."""
        return self.count - sum(is_bad(index, self.bad) for index in range(self.count))

    def rows(self) -> Iterator[Row]:
        """Yield the records: the first is for the first partition, the second for the second, and so on."""
        if self.write is not None:
            return self.write(self.count)
        if self.keys:
            return keyed(self.count, keys=self.keys, partitions=self.partitions)
        return plain(self.count, width=self.width, bad=self.bad)


def events(count: int, *, width: int = FEATURES) -> Iterator[dict[str, Any]]:
    """Yield the same records each time, one for each millisecond; their labels are a noisy linear rule.

    The numbers have all digits of a double, like computed values, not the few digits of typed ones.
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
    """Yield records with their labels, of which this percentage is bad."""
    for index, event in enumerate(events(count, width=width)):
        value = _encode(event)
        yield {"key": key_of(index), "value": _spoil(event, value, index) if is_bad(index, bad) else value}


def is_bad(index: int, share: int) -> bool:
    """Return whether a record is bad: this percentage of the records is, spread over all partitions."""
    return (19 * index + 37 * (index // 64)) % 100 < share


def _spoil(event: dict[str, Any], value: bytes, index: int) -> bytes:
    """Make a record bad, in turn in three frequent ways: cut off, a feature without a value, no features."""
    kind = index % 3
    if kind == 0:
        return value[:-2]
    if kind == 1:
        return _encode({**event, "features": {**event["features"], "feature_0": None}})
    return _encode({key: held for key, held in event.items() if key != "features"})


def keyed(count: int, *, keys: int, partitions: int) -> Iterator[Row]:
    """Yield the same records with random keys, this number of them. Record N is for partition N modulo `partitions`.

    A key is always in the same partition, as with Kafka's partitioner.
    """
    rng = random.Random(1)
    for index, event in enumerate(events(count)):
        yield {
            "key": _key(rng.randrange(max(1, keys // partitions)) * partitions + index % partitions),
            "value": _encode(event),
        }


def unlabelled(count: int, *, started_ms: int) -> Iterator[Row]:
    """Yield the same records without labels, with timestamps from `started_ms` on."""
    for index, event in enumerate(events(count)):
        del event["label"]
        yield {"key": key_of(index), "value": _encode(event), "timestamp": started_ms + index}


def labels(count: int, *, started_ms: int) -> Iterator[Row]:
    """Yield the labels of the same records, in order, each later by the same time."""
    for index, event in enumerate(events(count)):
        label = {"id": event["id"], "label": event["label"], "ts": event["ts"] + LABELS_LATER}
        yield {"key": key_of(index), "value": _encode(label), "timestamp": started_ms + index + LABELS_LATER}


def key_of(index: int) -> bytes:
    """Return the key of a record, of a thousand keys in turn."""
    return _key(index % _KEYS)


def _key(number: int) -> bytes:
    return f"k-{number}".encode()


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()
