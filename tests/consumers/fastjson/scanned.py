"""Compares what the scanner reads with what the decoder reads, to the last bit."""

import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.consumers.fastjson.number import BOOLEAN, FLOAT, INTEGER, NULL, STRING, WIDE
from headrace.consumers.fastjson.scan import Scan, Scanner
from headrace.consumers.record import Decoder, Event, Record, RecordDecoder, RecordHeaders, Skipped
from headrace.consumers.record_batch import RecordBatch

DECODER = Decoder()
TYPES: dict[int, type] = {INTEGER: int, FLOAT: float, BOOLEAN: bool}


def batch_of(
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    timestamps: Sequence[int] | None = None,
    headers: Sequence[RecordHeaders | None] | None = None,
) -> RecordBatch:
    count = len(values)
    return RecordBatch(
        0,
        offsets=range(count),
        timestamps=timestamps or [0] * count,
        keys=keys or [None] * count,
        values=values,
        headers=headers,
    )


def decode(value: bytes | None, decoder: RecordDecoder = DECODER) -> Any:
    return decoder.decode(Record(0, 0, 0, None, value, None))


def read(scanner: Scanner, values: Sequence[bytes | None]) -> Scan:
    return scanner.scan(batch_of(values))


def value_of(scanner: Scanner, kind: int, value: float) -> Any:
    if kind == NULL:
        return None
    if kind in {STRING, WIDE}:
        word = scanner.vocabulary.words[int(value)]
        return word if kind == STRING else int(word)
    return TYPES[kind](value)


def features_of(scanner: Scanner, scan: Scan, i: int) -> list[tuple[str, Any]]:
    entries = range(scan.starts[i], scan.starts[i + 1])
    names = scanner.vocabulary.names
    return [(names[scan.names[k]], value_of(scanner, scan.kinds[k], scan.values[k])) for k in entries]


def event_of(scanner: Scanner, scan: Scan, i: int) -> dict[str, Any]:
    """Return what a record is in a scan, as the decoder's event would have it."""
    found: dict[str, Any] = {"features": features_of(scanner, scan, i)}
    if scan.id_at[i] >= 0:
        found["id"] = scan.text[scan.id_at[i] : scan.id_at[i] + scan.id_size[i]].tobytes().decode()
    if scan.ts[i] >= 0:
        found["ts"] = int(scan.ts[i])
    if scan.label_kinds[i] >= 0:
        found["label"] = value_of(scanner, scan.label_kinds[i], scan.label_values[i])
    return found


def exact(node: Any) -> Any:
    """Make a value comparable to the last bit, and with its type."""
    if isinstance(node, dict):
        return {name: exact(value) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [exact(value) for value in node]
    return (type(node), struct.pack("d", node) if isinstance(node, float) else node)


def assert_sound(
    values: Sequence[bytes | None] | RecordBatch, scanner: Scanner, decoder: RecordDecoder = DECODER
) -> list[bool]:
    """Compare a scan with the decoder; return which records were slow."""
    batch = values if isinstance(values, RecordBatch) else batch_of(values)
    scan = scanner.scan(batch)
    assert len(scan.slow) == len(scan.skipped) == len(batch)
    assert len(scan.starts) == len(batch) + 1
    assert scan.starts[-1] == len(scan.names) == len(scan.kinds) == len(scan.values)
    for i, record in enumerate(batch.records()):
        if scan.slow[i]:
            assert event_of(scanner, scan, i) == {"features": []}
            assert not scan.skipped[i]
            continue
        event = decoder.decode(record)
        if scan.skipped[i]:
            assert isinstance(event, Skipped), (record, event)
            assert event_of(scanner, scan, i) == {"features": []}
            continue
        assert isinstance(event, Event), (record, event)
        wanted = {name: found for name, found in msgspec.structs.asdict(event).items() if found is not msgspec.UNSET}
        wanted["features"] = list(wanted["features"].items())
        assert exact(event_of(scanner, scan, i)) == exact(wanted), record
    return scan.slow.tolist()  # type: ignore[no-any-return]
