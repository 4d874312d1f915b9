"""The rows of many keys as bytes, written together: their models have one length and differ only in numbers.

`keyring` and `row_packing` write the same bytes one by one. Importing this module imports numpy.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from headrace.state.row_packing import BYTES_MAX, ROWS_MAX, TEXT, RowPacker
from headrace.state.seal import ROW_BYTES, RowSeal

# MessagePack writes a whole number in as few bytes as it needs.
_LARGEST = np.array([(1 << 7) - 1, (1 << 8) - 1, (1 << 16) - 1, (1 << 32) - 1])
_SIZES = np.array([1, 2, 3, 5, 9])


def models(head: bytes, numbers: Any) -> Any:
    """Return the bytes of models with this head: uint8, a row each, as `numbers` (float64) has them."""
    block = np.empty((len(numbers), len(head) + 8 * numbers.shape[1]), np.uint8)
    block[:, : len(head)] = np.frombuffer(head, np.uint8)
    block[:, len(head) :] = _octets(numbers, "<f8")
    return block


def pack(packer: RowPacker, keys: Sequence[bytes], places: Any, *, lengths: Any, seen_ms: Any, states: Any) -> None:
    """Pack the rows of the keys at these places of `keys`, whose models all have the same length.

    Each place has its key's length in `lengths`, its last time in `seen_ms` (both int64), and its model in `states`
    (uint8, a row each).
    """
    # Rows have the same length if their keys and their times have.
    kinds = lengths * (_SIZES[-1] + 1) + _sizes(seen_ms)
    for kind in np.unique(kinds).tolist():
        at = np.flatnonzero(kinds == kind)
        most = max(1, min(ROWS_MAX, BYTES_MAX // (states.shape[1] + int(lengths[at[0]]))))
        for some in np.split(at, range(most, len(at), most)):
            named = [keys[place] for place in places[some].tolist()]
            packer.add(len(some), *_texts(packer.seal, named, seen_ms[some], states[some]))


def _texts(seal: RowSeal, keys: list[bytes], seen_ms: Any, states: Any) -> tuple[bytes, list[bytes], bytes]:
    """Return each key and its sealed row as texts, the keys, and the seals. All keys have one length, and all times."""
    size, width = int(_sizes(seen_ms[:1])[0]), states.shape[1]
    head = msgspec.msgpack.encode([int(seen_ms[0]), bytes(width)])[:-width]
    sealed = ROW_BYTES + len(head) + width
    first = TEXT(0xDB, len(keys[0])) + keys[0] + TEXT(0xDB, sealed) + bytes(ROW_BYTES) + head
    block = np.empty((len(keys), len(first) + width), np.uint8)
    block[:, : len(first)] = np.frombuffer(first, np.uint8)
    block[:, len(first) :] = states
    key_at = len(TEXT(0xDB, 0))
    block[:, key_at : key_at + len(keys[0])] = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), len(keys[0]))
    row_at = len(first) - len(head)
    _put_whole(block[:, row_at + 1 : row_at + 1 + size], seen_ms)
    # The seal covers the key, and all bytes of the row behind the seal.
    rows, wide = block.data.cast("B"), block.shape[1]
    ends = range(wide, len(rows) + 1, wide)
    seals = b"".join(seal.of(key, rows[end - wide + row_at : end]) for key, end in zip(keys, ends, strict=True))
    block[:, row_at - ROW_BYTES : row_at] = np.frombuffer(seals, np.uint8).reshape(len(keys), ROW_BYTES)
    return block.tobytes(), keys, seals


def _sizes(numbers: Any) -> Any:
    """Return the number of bytes that MessagePack needs for whole numbers from -1 on."""
    return _SIZES[np.searchsorted(_LARGEST, numbers)]


def _put_whole(columns: Any, numbers: Any) -> None:
    """Write whole numbers into columns as wide as MessagePack needs. If there is a type byte, it is there already."""
    digits = max(1, columns.shape[1] - 1)
    columns[:, columns.shape[1] - digits :] = _octets(numbers, ">i8")[:, 8 - digits :]


def _octets(numbers: Any, kind: str) -> Any:
    """Return the bytes of each row's numbers, uint8."""
    return np.ascontiguousarray(numbers, dtype=kind).view(np.uint8).reshape(len(numbers), -1)
