"""Many models of a slab as bytes, each as `slab_row` writes one. Importing this module takes numpy."""

from typing import Any

import numpy as np

from state import slab_row

# Where a row tells how much was learned, behind three bytes; MessagePack writes that number in as few as it needs.
_LEARNED_AT = 3
_LARGEST = np.array([(1 << 7) - 1, (1 << 8) - 1, (1 << 16) - 1, (1 << 32) - 1])
_SIZES = (1, 2, 3, 5, 9)


def write_all(learned: Any, intercepts: Any, names: list[str], fields: Any, *, scaled: bool) -> list[bytes]:
    """Return models that have met the same features as bytes.

    `learned` (int64) and `intercepts` (float64) have an entry for each, `fields` (float64) a row. What differs between
    two rows of one length are numbers alone, so those of one length are written as columns.
    """
    written = [b""] * len(learned)
    lengths = np.searchsorted(_LARGEST, learned)
    for length in np.unique(lengths).tolist():
        at = np.flatnonzero(lengths == length)
        block = _block(learned[at], intercepts[at], names, fields[at], size=_SIZES[length], scaled=scaled)
        whole, width = block.tobytes(), block.shape[1]
        for place, start in zip(at.tolist(), range(0, len(whole), width), strict=True):
            written[place] = whole[start : start + width]
    return written


def _block(learned: Any, intercepts: Any, names: list[str], fields: Any, *, size: int, scaled: bool) -> Any:
    """Return the bytes of rows of one length, uint8: copies of one, with the numbers of each put in."""
    own = 8 * fields.shape[1]
    first = slab_row.write(int(learned[0]), 0.0, names, bytes(own), scaled=scaled)
    block = np.tile(np.frombuffer(first, np.uint8), (len(learned), 1))
    end = _LEARNED_AT + size
    digits = max(1, size - 1)
    block[:, end - digits : end] = _octets(learned, ">u8")[:, 8 - digits :]
    # A float is a byte for its type, and the number.
    block[:, end + 1 : end + 9] = _octets(intercepts, ">f8")
    block[:, len(first) - own :] = _octets(fields, "<f8")
    return block


def _octets(numbers: Any, kind: str) -> Any:
    """Return the bytes of each row's numbers, uint8."""
    return np.ascontiguousarray(numbers, dtype=kind).view(np.uint8).reshape(len(numbers), -1)
