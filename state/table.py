"""Rows that belong to a shard and are saved with it, too many to be written each time: only what changed goes out.

No single script may write a million rows, since Redis serves nobody meanwhile. So rows are changed in place, in
chunks, with a rollback journal as in SQLite: before a row changes for the first time in a version, what it was
goes into that version's journal, in the same script. An attempt begins with its version's number in the head and
ends in the script that saves the snapshot. Whoever takes the shard over rewinds: journals are applied newest
first, each puts the rows back to where they stood before its version, and doing it twice is doing it once.

Three things make every script harmless that comes late, or twice, or to a store that went back in time:
each try has a token, drawn when it begins, and what carries an older one is refused; an owner must have rewound
before it saves; and a journal must hold as many rows as were changed, or the version does not come about.

Keys, beside those of `store`: `…:rows:<table>` (key to sealed value), `…:undo:<version>` (table, NUL, key to
what was there; empty for nothing; and a mark under the empty field, so that no rows differ from no journal).
In the head: `attempt`, `token`, `by` (the epoch that last rewound or saved), `doomed` (versions that a rewind
has not finished with) and `table:<name>` (the version in which a table began).
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import redis

ROWS_MAX = 1_000
BYTES_MAX = 1_000_000
"""How much one script writes, at most: rows, and bytes unless a single row is larger."""

SEAL_BYTES = 4
"""How long the seal before a value is."""
TEXT = struct.Struct(">BI").pack
"""MessagePack's type, 0xDB for a text and 0xDD for an array, and a length of 32 bits."""
# Nothing is known of the rows' sizes before the first page: a small one asks.
_FIRST_PAGE = 16

PRELUDE = """
local function head(field) return redis.call('HGET', KEYS[1], field) end
local function number(field) return tonumber(head(field) or '0') end
local held = number('epoch')
if held > tonumber(ARGV[1]) then return {-1, held} end
local function damaged(...) return {-2, table.concat({...})} end
local function newest()
  -- A store that runs full may have dropped the head and kept the snapshots: the new one must be the newest.
  local version, kept = number('version'), redis.call('HKEYS', KEYS[2])
  for i, old in ipairs(kept) do
    kept[i] = tonumber(old)
    version = math.max(version, kept[i])
  end
  return version, kept
end
local function tables()
  local names, first, fields = {}, nil, redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    local name = string.match(fields[i], '^table:(.*)$')
    if name then
      names[#names + 1] = name
      first = math.min(first or math.huge, tonumber(fields[i + 1]))
    end
  end
  return names, first
end
"""
"""What every script begins with: KEYS[1] is the head, ARGV[1] the epoch, KEYS[2] the snapshots where it asks."""

# ARGV: epoch, digest, base, undo prefix, rows prefix, tables. A token of 0 says that it is saved already.
_BEGIN = (
    PRELUDE
    + """
if head('digest') == ARGV[2] then return {0, number('version'), 0} end
local version, by = newest(), head('by')
if head('doomed') then return damaged('a rewind was begun and not finished') end
if by ~= ARGV[1] and (by or version > 0) then return damaged('epoch ', ARGV[1], ' has not rewound the tables yet') end
if version < tonumber(ARGV[3]) then
  return damaged('the changes rest on version ', ARGV[3], ', and the store has lost all after ', version)
end
local attempt = number('attempt')
if attempt == 0 then
  attempt = version + 1
  redis.call('UNLINK', ARGV[4] .. attempt)
  redis.call('HSET', ARGV[4] .. attempt, '', 1)
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'by', ARGV[1], 'attempt', attempt)
for i = 6, #ARGV do
  -- Rows of a table that the head does not know were left behind when the store dropped an older head.
  if redis.call('HSETNX', KEYS[1], 'table:' .. ARGV[i], attempt) == 1 then redis.call('UNLINK', ARGV[5] .. ARGV[i]) end
end
return {0, attempt, redis.call('HINCRBY', KEYS[1], 'token', 1)}
"""
)

# KEYS: head, rows, undo. ARGV: epoch, token, table, a packed chunk.
_WRITE = (
    PRELUDE
    + r"""
if head('token') ~= ARGV[2] then return {-3} end
-- A few calls for all rows: each costs as much as a row does.
local prefix, chunk, keys, fields = ARGV[3] .. '\0', cmsgpack.unpack(ARGV[4]), {}, {}
for i = 1, #chunk, 2 do
  keys[#keys + 1] = chunk[i]
  fields[#fields + 1] = prefix .. chunk[i]
end
local were, noted = redis.call('HMGET', KEYS[2], unpack(keys)), redis.call('HMGET', KEYS[3], unpack(fields))
local undo, rows, gone = {}, {}, {}
for i, key in ipairs(keys) do
  if not noted[i] then
    undo[#undo + 1] = fields[i]
    undo[#undo + 1] = were[i] or ''
  end
  local row = chunk[2 * i]
  if row == '' then
    gone[#gone + 1] = key
  else
    rows[#rows + 1] = key
    rows[#rows + 1] = row
  end
end
if #undo > 0 then redis.call('HSET', KEYS[3], unpack(undo)) end
if #rows > 0 then redis.call('HSET', KEYS[2], unpack(rows)) end
if #gone > 0 then redis.call('HDEL', KEYS[2], unpack(gone)) end
return {0}
"""
)

# KEYS: head, snapshots, notes. ARGV: epoch, version, undo prefix, rows prefix, keys that nobody knows any more.
# The versions go before their rows do, so that nobody loads one whose rows are half way back already.
_REWIND = (
    PRELUDE
    + """
local target, undo = tonumber(ARGV[2]), ARGV[3]
local version, kept = newest()
local names, first = tables()
local doomed, dropped = {}, {}
for old in string.gmatch(head('doomed') or '', '%d+') do doomed[#doomed + 1] = tonumber(old) end
if head('attempt') then doomed[#doomed + 1] = number('attempt') end
for _, old in ipairs(kept) do
  if old > target then
    dropped[#dropped + 1] = old
    if first and old >= first then doomed[#doomed + 1] = old end
  end
end
if target > 0 then
  if redis.call('HEXISTS', KEYS[2], target) == 0 then return damaged('version ', target, ' is not kept') end
  if not head('version') then return damaged('the head is lost, and what was half saved with it') end
  for _, old in ipairs(doomed) do
    if redis.call('HEXISTS', undo .. old, '') == 0 then return damaged('the journal of version ', old, ' is gone') end
  end
else
  for _, name in ipairs(names) do
    redis.call('UNLINK', ARGV[4] .. name)
    redis.call('HDEL', KEYS[1], 'table:' .. name)
  end
  for i = 5, #ARGV do redis.call('UNLINK', ARGV[i]) end
  for _, old in ipairs(redis.call('HKEYS', KEYS[3])) do redis.call('UNLINK', undo .. old) end
  for _, old in ipairs(doomed) do redis.call('UNLINK', undo .. old) end
  redis.call('UNLINK', KEYS[2], KEYS[3])
end
table.sort(doomed, function(one, other) return one > other end)
for _, old in ipairs(dropped) do
  redis.call('HDEL', KEYS[2], old)
  redis.call('HDEL', KEYS[3], old)
end
redis.call('HDEL', KEYS[1], 'attempt', 'doomed', 'digest', 'offset')
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'by', ARGV[1], 'version', math.max(version, doomed[1] or 0))
if target == 0 then doomed = {} end
if #doomed > 0 then redis.call('HSET', KEYS[1], 'doomed', table.concat(doomed, ' ')) end
return {0, redis.call('HINCRBY', KEYS[1], 'token', 1), unpack(doomed)}
"""
)

# KEYS: head, undo. ARGV: epoch, token, rows prefix, cursor, count.
_RESTORE = (
    PRELUDE
    + r"""
if head('token') ~= ARGV[2] then return {-3} end
if redis.call('HEXISTS', KEYS[2], '') == 0 then return damaged('a journal went while it was applied') end
local page, bytes = redis.call('HSCAN', KEYS[2], ARGV[4], 'COUNT', ARGV[5]), 0
local entries = page[2]
for i = 1, #entries, 2 do
  local cut = string.find(entries[i], '\0', 1, true)
  if cut then
    local rows, key = ARGV[3] .. string.sub(entries[i], 1, cut - 1), string.sub(entries[i], cut + 1)
    bytes = bytes + #key + #entries[i + 1]
    if entries[i + 1] == '' then redis.call('HDEL', rows, key) else redis.call('HSET', rows, key, entries[i + 1]) end
  end
end
return {0, page[1], #entries / 2, bytes}
"""
)

# KEYS: head. ARGV: epoch, token, undo prefix.
_DROP = (
    PRELUDE
    + """
if head('token') ~= ARGV[2] then return {-3} end
for old in string.gmatch(head('doomed') or '', '%d+') do redis.call('UNLINK', ARGV[3] .. old) end
redis.call('HDEL', KEYS[1], 'doomed')
return {0}
"""
)


class TableDamaged(Exception):
    """Raised when the store no longer has a shard's rows as they were at the version asked for."""

    status = 409
    hint = "rewind the shard to version 0 and learn its tables again from the log"


class Attempt(msgspec.Struct, frozen=True):
    """Changes that stand in the store and wait for the script that makes a version of them; token 0: there are none."""

    token: int = 0
    rows: int = 0


class Stand(NamedTuple):
    """Where a shard stands in the store: the epoch of its owner, its newest version, the rows of the table asked."""

    epoch: int
    version: int
    rows: int


class Packed(msgspec.Struct, frozen=True):
    """Changed rows of one table, ready to be sent: how many, and a chunk for each script.

    Views, so that who reads many of them from elsewhere copies none.
    """

    rows: int
    chunks: list[memoryview]


Judge = Callable[[Any, int, int], list[Any]]
"""Gives what a script answered, or raises what it refused; of answer, partition, epoch."""


class Tables:
    """The rows and journals of one pipeline's shards; what the client raises comes through."""

    def __init__(self, client: "redis.Redis", *, key: Callable[[int, str], str], judge: Judge) -> None:
        self._client = client
        self._key = key
        self._judge = judge
        self._begin, self._write, self._rewind, self._restore, self._drop = (
            client.register_script(script) for script in (_BEGIN, _WRITE, _REWIND, _RESTORE, _DROP)
        )

    def write(self, partition: int, *, epoch: int, digest: str, base: int, packed: Mapping[str, Packed]) -> Attempt:
        """Write the changed rows in chunks, each with what it was before; a version is for the caller to make of it.

        Raises TableDamaged, StoreFenced, StoreAway; after the last the same owner may go on where it stopped.
        """
        named = [table for table, changed in packed.items() if changed.rows]
        if not named:
            return Attempt()
        if not all(named) or any("\0" in table for table in named):
            raise ValueError("a table's name is not empty and has no NUL in it")
        args = [epoch, digest, base, self._key(partition, "undo:"), self._key(partition, "rows:"), *named]
        version, token = self._ask(self._begin, partition, ("head", "snapshots"), args)
        if not token:
            return Attempt()
        for table in named:
            parts = ("head", f"rows:{table}", f"undo:{version}")
            for chunk in packed[table].chunks:
                self._ask(self._write, partition, parts, [epoch, token, table, chunk])
        return Attempt(token=token, rows=sum(packed[table].rows for table in named))

    def rewind(self, partition: int, *, epoch: int, version: int) -> None:
        """Put the rows back to where they stood at a version, and drop what came after it."""
        undo, rows = self._key(partition, "undo:"), self._key(partition, "rows:")
        lost = self._lost(partition) if version == 0 else []
        parts = ("head", "snapshots", "notes")
        token, *doomed = self._ask(self._rewind, partition, parts, [epoch, version, undo, rows, *lost])
        for newer in doomed:
            self._undo(partition, epoch, token, newer)
        if doomed:
            self._ask(self._drop, partition, ("head",), [epoch, token, undo])

    def pages(self, partition: int, table: str) -> Iterator[list[tuple[bytes, bytes]]]:
        """Go through all rows, a page of bounded size at a time; a row may come twice. Raises TableDamaged."""
        name, cursor, count = self._key(partition, f"rows:{table}"), 0, _FIRST_PAGE
        while True:
            cursor, found = cast("tuple[int, dict[bytes, bytes]]", self._client.hscan(name, cursor, count=count))
            count = _page(len(found), sum(map(len, found.values())))
            yield [(key, self._unseal(partition, table, key, sealed)) for key, sealed in found.items()]
            if not cursor:
                return

    def fetch(self, partition: int, table: str, keys: Sequence[bytes]) -> tuple[list[bytes | None], Stand]:
        """Return the values of rows, None for one that is not there, and where the shard stands, in one round trip.

        Raises TableDamaged.
        """
        asked = self._client.pipeline(transaction=False)
        asked.hmget(self._key(partition, "head"), "epoch", "version")
        asked.hlen(self._key(partition, f"rows:{table}"))
        for start in range(0, len(keys), ROWS_MAX):
            asked.hmget(self._key(partition, f"rows:{table}"), list(keys[start : start + ROWS_MAX]))
        (epoch, version), rows, *parts = asked.execute()
        values = [
            None if sealed is None else self._unseal(partition, table, key, sealed)
            for key, sealed in zip(keys, (sealed for part in parts for sealed in part), strict=True)
        ]
        return values, Stand(int(epoch or 0), int(version or 0), rows)

    def count(self, partition: int, table: str) -> int:
        """Return how many rows a table has."""
        return self._client.hlen(self._key(partition, f"rows:{table}"))

    def _undo(self, partition: int, epoch: int, token: int, version: int) -> None:
        parts, rows = ("head", f"undo:{version}"), self._key(partition, "rows:")
        cursor, count = b"0", _FIRST_PAGE
        while True:
            args = [epoch, token, rows, cursor, count]
            cursor, restored, size = self._ask(self._restore, partition, parts, args)
            count = _page(restored, size)
            if cursor == b"0":
                return

    def _ask(self, script: Callable[..., Any], partition: int, parts: Sequence[str], args: list[Any]) -> list[Any]:
        """Run a script over keys of a shard; the first argument is the epoch."""
        return self._judge(script(keys=[self._key(partition, part) for part in parts], args=args), partition, args[0])

    def _lost(self, partition: int) -> list[bytes]:
        """Return the keys of rows and journals of a shard without a head, which alone knows their names."""
        if self._client.hexists(self._key(partition, "head"), "version"):
            return []
        found: list[bytes] = []
        for part in ("rows:", "undo:"):
            pattern = escape(self._key(partition, part)) + "*"
            found.extend(self._client.scan_iter(match=pattern, count=ROWS_MAX))
        return found

    def _unseal(self, partition: int, table: str, key: bytes, sealed: bytes) -> bytes:
        value = sealed[SEAL_BYTES:]
        if seal(key, value) != sealed:
            raise TableDamaged(f"partition {partition}: the row {key!r} of the table {table} is not as it was saved")
        return value


def seal(key: bytes, value: bytes) -> bytes:
    """Put a CRC-32 of key and value before the value; what is sealed is never empty."""
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(SEAL_BYTES) + value


def pack(rows: Mapping[bytes, bytes | None], *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX) -> Packed:
    """Pack changes, None for a row to delete, into chunks of so many rows and bytes, unless a single row is larger.

    A chunk is a MessagePack array of key, sealed value, key, …, a value being empty for a row to delete: one argument,
    which the client and the store take in far sooner than two thousand. All are of the type for texts, since the
    store's own reader knows no other for bytes.
    """
    packer = Packer(rows_max=rows_max, bytes_max=bytes_max)
    for key, value in rows.items():
        packer.add_row(key, value)
    return packer.packed()


class Packer:
    """Puts rows into chunks; each of them, or several one after the other, as texts: `TEXT`, key, `TEXT`, value."""

    def __init__(self, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._all = self._rows = self._held = 0
        self._texts: list[bytes] = []
        self._chunks: list[memoryview] = []

    def add(self, rows: int, texts: bytes) -> None:
        """Add so many rows, which go into one chunk together."""
        if self._rows and (self._rows + rows > self._rows_max or self._held + len(texts) > self._bytes_max):
            self._close()
        self._rows += rows
        self._held += len(texts)
        self._texts.append(texts)

    def add_row(self, key: bytes, value: bytes | None) -> None:
        """Add a row, None for one to delete."""
        sealed = b"" if value is None else seal(key, value)
        self.add(1, b"".join((TEXT(0xDB, len(key)), key, TEXT(0xDB, len(sealed)), sealed)))

    def packed(self) -> Packed:
        """Return all that was added."""
        if self._rows:
            self._close()
        return Packed(self._all, self._chunks)

    def _close(self) -> None:
        self._chunks.append(memoryview(b"".join((TEXT(0xDD, 2 * self._rows), *self._texts))))
        self._all += self._rows
        self._rows = self._held = 0
        self._texts = []


def escape(name: str) -> str:
    """Make a pattern that matches the name alone."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in name)


def _page(rows: int, size: int) -> int:
    """Return how many rows to ask for next, when the last page had `rows` of `size` bytes together."""
    return max(1, min(ROWS_MAX, BYTES_MAX * max(rows, 1) // max(size, 1)))
