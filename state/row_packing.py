"""Seals changed rows and packs them into chunks; `state/store/tables.py` writes each chunk with one script call."""

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from headrace.state.seal import RowSeal, add_weight, sum_bytes

ROWS_MAX = 1_000
BYTES_MAX = 1_000_000
"""The limits of one chunk in rows and in bytes; a single larger row has a chunk of its own."""

TEXT = struct.Struct(">BI").pack
"""Writes a MessagePack type, 0xDB for a string and 0xDD for an array, and a length of 32 bits."""


class TableDamaged(Exception):
    """Raised when the store no longer has the rows of a shard's version."""

    status = 409
    hint = "rewind the shard to version 0 and learn its tables again from the log"


class TableVersion(NamedTuple):
    """A shard's state in the store: the epoch of its owner, its newest version, and a table's number of rows."""

    epoch: int
    version: int
    rows: int


class PackedRows(msgspec.Struct, frozen=True):
    """The changed rows of one table, packed: their number, the chunks, and the sum of their weights (`seal.ROW_BYTES`).

    Chunks are views, so that a process that receives many of them in one buffer need not copy them.
    """

    rows: int
    chunks: list[memoryview]
    weight: bytes


def pack(
    rows: Mapping[bytes, bytes | None], seal: RowSeal, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX
) -> PackedRows:
    """Pack changed rows, None for a row to delete, into chunks of at most `rows_max` rows and `bytes_max` bytes.

    A chunk is a MessagePack array of key, sealed value, key, …; an empty value deletes the row. One argument is much
    faster for the client and the store than two thousand. Keys and values have the MessagePack type for strings: the
    store's decoder has no type for bytes.
    """
    packer = RowPacker(seal, rows_max=rows_max, bytes_max=bytes_max)
    for key, value in rows.items():
        packer.add_row(key, value)
    return packer.packed()


class RowPacker:
    """Packs rows into chunks; a row is written as `TEXT`, key, `TEXT`, value."""

    def __init__(self, seal: RowSeal, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.seal = seal
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._all = self._rows = self._held = 0
        self._texts: list[bytes] = []
        self._chunks: list[memoryview] = []
        self._weight = 0

    def add(self, rows: int, texts: bytes, keys: Sequence[bytes], seals: bytes) -> None:
        """Add some rows to one chunk; `keys` and `seals` are those of the rows that are not deleted."""
        if self._rows and (self._rows + rows > self._rows_max or self._held + len(texts) > self._bytes_max):
            self._close()
        self._rows += rows
        self._held += len(texts)
        self._texts.append(texts)
        self._weight = add_weight(self._weight, self.seal.weigh(keys, seals))

    def add_row(self, key: bytes, value: bytes | None) -> None:
        """Add a row; a value of None deletes it."""
        seal = b"" if value is None else self.seal.of(key, value)
        row = seal + (value or b"")
        self.add(1, b"".join((TEXT(0xDB, len(key)), key, TEXT(0xDB, len(row)), row)), [key] if seal else [], seal)

    def packed(self) -> PackedRows:
        """Return all rows that were added."""
        if self._rows:
            self._close()
        return PackedRows(self._all, self._chunks, sum_bytes(self._weight))

    def _close(self) -> None:
        self._chunks.append(memoryview(b"".join((TEXT(0xDD, 2 * self._rows), *self._texts))))
        self._all += self._rows
        self._rows = self._held = 0
        self._texts = []
