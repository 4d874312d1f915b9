"""The row of one key in the store, and how rows are read."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import msgspec

from headrace.state.row_packing import TableDamaged, TableVersion
from headrace.state.seal import UNREADABLE

FetchRows = Callable[[Sequence[bytes], TableVersion], Sequence[bytes | None]]
"""Returns the rows of keys, None for a key without one, in one round trip; may raise the errors of the store.

The TableVersion has the owner's epoch, and the version and the number of rows that the store must have at least.
"""
ScanRows = Callable[[], Iterator[Sequence[tuple[bytes, bytes]]]]
"""Yields all rows in pages, each as it is when it is read; may raise the errors of the store."""


class KeyRow(msgspec.Struct, frozen=True, array_like=True):
    """One key in the store: the stream's time in ms when it was last seen, and its model."""

    seen_ms: Annotated[int, msgspec.Meta(ge=-1, le=2**62)]
    model: bytes


def read_row(key: bytes, packed: bytes) -> KeyRow:
    """Read a key's row. Raises TableDamaged for an invalid one."""
    try:
        return msgspec.msgpack.decode(packed, type=KeyRow)
    except UNREADABLE as error:
        raise TableDamaged(f"the row of key {key!r} can't be read: {error}") from error
