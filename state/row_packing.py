"""Changed rows, sealed and packed into chunks, one for each script of the store; `table` sends them."""

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from headrace.state.seal import RowSeal, add, written

ROWS_MAX = 1_000
BYTES_MAX = 1_000_000
"""How much one script writes, at most: rows, and bytes unless a single row is larger."""

TEXT = struct.Struct(">BI").pack
"""MessagePack's type, 0xDB for a text and 0xDD for an array, and a length of 32 bits."""


class TableDamaged(Exception):
    """Raised when the store no longer has a shard's rows as they were at the version asked for."""

    status = 409
    hint = "rewind the shard to version 0 and learn its tables again from the log"


class TableVersion(NamedTuple):
    """Where a shard stands in the store: the epoch of its owner, its newest version, the rows of the table asked."""

    epoch: int
    version: int
    rows: int


class PackedRows(msgspec.Struct, frozen=True):
    """Changed rows of one table, ready to be sent: how many, a chunk for each script, and the sum of their weights.

    Chunks are views, so that who reads many of them from elsewhere copies none. The sum is of `seal.ROW_BYTES`.
    """

    rows: int
    chunks: list[memoryview]
    weight: bytes


def pack(
    rows: Mapping[bytes, bytes | None], seal: RowSeal, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX
) -> PackedRows:
    """Pack changes, None for a row to delete, into chunks of so many rows and bytes, unless a single row is larger.

    A chunk is a MessagePack array of key, sealed value, key, …, a value being empty for a row to delete: one argument,
    which the client and the store take in far sooner than two thousand. All are of the type for texts, since the
    store's own reader knows no other for bytes.
    """
    packer = RowPacker(seal, rows_max=rows_max, bytes_max=bytes_max)
    for key, value in rows.items():
        packer.add_row(key, value)
    return packer.packed()


class RowPacker:
    """Puts rows into chunks; each of them, or several one after the other, as texts: `TEXT`, key, `TEXT`, value."""

    def __init__(self, seal: RowSeal, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.seal = seal
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._all = self._rows = self._held = 0
        self._texts: list[bytes] = []
        self._chunks: list[memoryview] = []
        self._weight = 0

    def add(self, rows: int, texts: bytes, keys: Sequence[bytes], seals: bytes) -> None:
        """Add a number of rows, which go into one chunk together; `keys` and `seals` are those of rows that stay."""
        if self._rows and (self._rows + rows > self._rows_max or self._held + len(texts) > self._bytes_max):
            self._close()
        self._rows += rows
        self._held += len(texts)
        self._texts.append(texts)
        self._weight = add(self._weight, self.seal.weigh(keys, seals))

    def add_row(self, key: bytes, value: bytes | None) -> None:
        """Add a row, None for one to delete."""
        made = b"" if value is None else self.seal.of(key, value)
        row = made + (value or b"")
        self.add(1, b"".join((TEXT(0xDB, len(key)), key, TEXT(0xDB, len(row)), row)), [key] if made else [], made)

    def packed(self) -> PackedRows:
        """Return all that was added."""
        if self._rows:
            self._close()
        return PackedRows(self._all, self._chunks, written(self._weight))

    def _close(self) -> None:
        self._chunks.append(memoryview(b"".join((TEXT(0xDD, 2 * self._rows), *self._texts))))
        self._all += self._rows
        self._rows = self._held = 0
        self._texts = []
