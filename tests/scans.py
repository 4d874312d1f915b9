"""A scan against the decoder: what a scanner of a binary format is sure of must have the decoder's values."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from headrace.consumers.fastjson.number import BOOLEAN, INTEGER, NULL, STRING
from headrace.consumers.fastjson.scan import Scan
from headrace.consumers.record import Event, RecordHeaders
from headrace.consumers.record_batch import RecordBatch


def batch(values: Sequence[bytes | None], headers: Sequence[RecordHeaders | None] | None = None) -> RecordBatch:
    count = len(values)
    return RecordBatch(
        0, offsets=range(count), timestamps=[5] * count, keys=[b"k"] * count, values=values, headers=headers
    )


def read(scan: Scan, i: int) -> tuple[Any, ...]:
    """Return what a scan has of a record, as an event has it."""
    words, entries = scan.vocabulary.words, range(scan.starts[i], scan.starts[i + 1])
    features = {scan.vocabulary.names[scan.names[k]]: _plain(scan.kinds[k], scan.values[k], words) for k in entries}
    at, size = scan.id_at[i], scan.id_size[i]
    id_ = msgspec.UNSET if at < 0 else bytes(scan.text[at : at + size]).decode()
    label = msgspec.UNSET if scan.label_kinds[i] < 0 else _plain(scan.label_kinds[i], scan.label_values[i], words)
    ts = msgspec.UNSET if scan.ts[i] < 0 else int(scan.ts[i])
    return list(features.items()), id_, ts, label


def check(decoder: Any, scanner: Any, records: RecordBatch) -> int:
    """Compare all records of a batch that are not slow; return their number."""
    scan = scanner.scan(records)
    sure = np.flatnonzero(~scan.slow).tolist()
    for i in sure:
        event = decoder.decode(records.record(i))
        assert isinstance(event, Event), (i, event)
        # As text: a double and an integer are equal, and NaN is not.
        assert repr(read(scan, i)) == repr((list(event.features.items()), event.id, event.ts, event.label))
    return len(sure)


def _plain(kind: int, number: float, words: list[str]) -> Any:
    if kind == STRING:
        return words[int(number)]
    if kind == NULL:
        return None
    return bool(number) if kind == BOOLEAN else int(number) if kind == INTEGER else float(number)
