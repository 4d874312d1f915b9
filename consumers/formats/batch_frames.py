"""Splits the frames of a batch from its values: one look-up for each different frame, and not for each record."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from headrace.consumers.formats.framing import HEADER, PREFIX_BYTES, Frame, unframe
from headrace.consumers.record_batch import RecordBatch

FRAMES_MAX = 64
"""The different frames before values of one batch that are looked at; records with others are slow."""


def frames(
    batch: RecordBatch, rows: Sequence[bytes], text: Any, begins: Any, fits: Any, *, has_indexes: bool
) -> Iterator[tuple[Frame, int, Any]]:
    """Yield the frames of a batch, the length of each before the value, and the positions of its records.

    `text` has all `rows`, which begin at `begins`. Only the records that `fits` are looked at.
    """
    rest = fits.copy()
    for position, headers in enumerate(batch.headers or ()):
        if headers and rest[position] and any(name == HEADER for name, _ in headers):
            rest[position] = False
            frame = unframe(rows[position], headers, has_indexes=has_indexes)
            if isinstance(frame, Frame):
                yield frame, 0, position
    sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    rest &= (sizes >= PREFIX_BYTES) & (text[begins] == 0)
    for _ in range(FRAMES_MAX):
        left = np.flatnonzero(rest)
        if not len(left):
            return
        first = rows[left[0]]
        rest[left[0]] = False
        frame = unframe(first, None, has_indexes=has_indexes)
        if isinstance(frame, Frame):
            size = len(first) - len(frame.payload)
            long = left[sizes[left] >= size]
            found = text[begins[long, None] + np.arange(size)] == np.frombuffer(first[:size], np.uint8)
            positions = long[found.all(axis=1)]
            rest[positions] = False
            yield frame, size, positions
