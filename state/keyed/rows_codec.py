"""Many models of an array bank, and the rows of their keys, as bytes. Models of one length differ only in numbers.

`row_codec`, `keyring` and `row_packing` write the same bytes one by one. Importing this module imports numpy.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from headrace.state.keyed import row_codec
from headrace.state.keyed.rows import Alike
from headrace.state.row_packing import BYTES_MAX, ROWS_MAX, TEXT, RowPacker
from headrace.state.seal import ROW_BYTES, RowSeal

# The position of `learned` in a model's bytes. MessagePack writes a whole number in as few bytes as it needs.
_LEARNED_AT = 3
_LARGEST = np.array([(1 << 7) - 1, (1 << 8) - 1, (1 << 16) - 1, (1 << 32) - 1])
_SIZES = np.array([1, 2, 3, 5, 9])


def blocks(alike: Alike, *, scaled: bool) -> Iterator[tuple[Any, Any]]:
    """Yield the models in blocks of one length: their positions (int64), and their bytes (uint8, a row each)."""
    sizes = _sizes(alike.learned)
    own = 8 * alike.fields.shape[1]
    for size in np.unique(sizes).tolist():
        at = np.flatnonzero(sizes == size)
        learned = alike.learned[at]
        first = row_codec.write(int(learned[0]), 0.0, alike.names, bytes(own), scaled=scaled)
        block = np.tile(np.frombuffer(first, np.uint8), (len(at), 1))
        end = _LEARNED_AT + size
        _put_whole(block[:, _LEARNED_AT:end], learned)
        # A float is a byte for its type, then the number.
        block[:, end + 1 : end + 9] = _octets(alike.intercepts[at], ">f8")
        block[:, len(first) - own :] = _octets(alike.fields[at], "<f8")
        yield at, block


def pack(packer: RowPacker, keys: Sequence[bytes], places: Any, *, lengths: Any, seen_ms: Any, models: Any) -> None:
    """Pack the rows of the keys at these places of `keys`, whose models all have the same length.

    Each place has its key's length in `lengths`, its last time in `seen_ms` (both int64), and its model in `models`.
    """
    # Rows have the same length if their keys and their times have.
    kinds = lengths * (_SIZES[-1] + 1) + _sizes(seen_ms)
    for kind in np.unique(kinds).tolist():
        at = np.flatnonzero(kinds == kind)
        most = max(1, min(ROWS_MAX, BYTES_MAX // (models.shape[1] + int(lengths[at[0]]))))
        for some in np.split(at, range(most, len(at), most)):
            named = [keys[place] for place in places[some].tolist()]
            packer.add(len(some), *_texts(packer.seal, named, seen_ms[some], models[some]))


def _texts(seal: RowSeal, keys: list[bytes], seen_ms: Any, models: Any) -> tuple[bytes, list[bytes], bytes]:
    """Return each key and its sealed row as texts, the keys, and the seals. All keys have one length, and all times."""
    size, width = int(_sizes(seen_ms[:1])[0]), models.shape[1]
    head = msgspec.msgpack.encode([int(seen_ms[0]), bytes(width)])[:-width]
    sealed = ROW_BYTES + len(head) + width
    first = TEXT(0xDB, len(keys[0])) + keys[0] + TEXT(0xDB, sealed) + bytes(ROW_BYTES) + head
    block = np.empty((len(keys), len(first) + width), np.uint8)
    block[:, : len(first)] = np.frombuffer(first, np.uint8)
    block[:, len(first) :] = models
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
