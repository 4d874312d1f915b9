"""Reads rows of a shard's table as they are at its newest version, while its owner may be writing the next one.

A save changes rows in place, chunk by chunk, and keeps the old ones in a journal until its version is there. So a row
that the journal has is read from there.
"""

from collections.abc import Sequence
from typing import Any, cast

from headrace.state.row_packing import TableDamaged
from headrace.state.seal import SealError
from headrace.state.store.client import Script
from headrace.state.store.lua_scripts import WHOLE
from headrace.state.store.store import Store, plain_errors

# KEYS: head, rows. ARGV: version, undo prefix, table, keys. Returns the newest version, and if that is the one that is
# asked for, the rows: each with a seal, empty for one that is not there.
_READ = (
    WHOLE
    + r"""
local version = whole(redis.call('HGET', KEYS[1], 'version')) or 0
if version ~= tonumber(ARGV[1]) or redis.call('HEXISTS', KEYS[1], 'doomed') == 1 then return {version} end
local keys, fields = {}, {}
for i = 4, #ARGV do
  keys[#keys + 1] = ARGV[i]
  fields[#fields + 1] = ARGV[3] .. '\0' .. ARGV[i]
end
local rows = redis.call('HMGET', KEYS[2], unpack(keys))
local attempt = whole(redis.call('HGET', KEYS[1], 'attempt'))
if attempt then
  for i, old in ipairs(redis.call('HMGET', ARGV[2] .. attempt, unpack(fields))) do
    if old then rows[i] = old end
  end
end
for i = 1, #keys do rows[i] = rows[i] or '' end
return {version, unpack(rows)}
"""
)
KEYS_MAX = 1_000
"""The most keys of one read."""


class KeyRows:
    """The rows of one pipeline's tables, for a reader that is not their owner."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._read = Script(store.client, _READ, reads=True)

    @plain_errors
    def at(self, partition: int, table: str, keys: Sequence[bytes], *, version: int) -> list[bytes | None] | int:
        """Return the values of rows at a version, None for a missing one; or the newest version, if it is another.

        Raises StoreAway, TableDamaged.
        """
        seal, name = self.store.seal, self.store.seal.name
        tag = f"{name}:{{{name}/{partition}}}:"
        args: list[Any] = [version, f"{tag}undo:", table, *keys]
        newest, *rows = cast("list[Any]", self._read(keys=[f"{tag}head", f"{tag}rows:{table}"], args=args))
        if newest != version or len(rows) != len(keys):
            return int(newest)
        opened = seal.rows(partition, table)
        try:
            return [opened.open(key, row) if row else None for key, row in zip(keys, rows, strict=True)]
        except SealError as error:
            raise TableDamaged(f"partition {partition}: a row of the table {table} can't be read: {error}") from error
