"""The row of one key in the store."""

from typing import Annotated

import msgspec

from headrace.state.row_packing import TableDamaged
from headrace.state.seal import UNREADABLE


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
