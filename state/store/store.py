"""Keeps snapshots in Redis: claims a shard, saves its versions atomically, loads the newest valid one.

Redis may lose data that it has acknowledged. So the offsets committed in Kafka decide: any snapshot at or below them is
a valid start. An owner that was replaced while its process slept can't overwrite its successor's snapshots, since
its epoch is older.

The keys of a shard share one hash tag, so that a script may use them together on a cluster:
`<name>:{<name>/<partition>}:head` (epoch, version, offset, digest), `…:snapshots` (version to bytes) and `…:notes`
(version to its note, `version_note.py`). The keys of its rows are described in `tables.py`.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar, cast

import msgspec
from redis.exceptions import RedisError

from headrace.state.row_packing import PackedRows, TableDamaged, TableVersion, pack
from headrace.state.seal import Seal, sum_bytes
from headrace.state.snapshot import Snapshot, SnapshotError, decode, encode
from headrace.state.store.address import AddressInvalid, parse
from headrace.state.store.client import Script, make_client
from headrace.state.store.client_errors import CLIENT_ERRORS, translate
from headrace.state.store.lua_scripts import PRELUDE, WHOLE
from headrace.state.store.store_errors import StoreAway, StoreFenced, StoreRefused
from headrace.state.store.tables import Tables, escape, find_wrong_type, whole
from headrace.state.store.version_note import read as read_note
from headrace.state.store.version_note import write as write_note

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_S = 3.0
"""Without an answer for this time, in seconds, the store counts as away."""

_SHOWN_BYTES = 40
_FENCED, _DAMAGED, _LATE = -1, -2, -3

_CLAIM = (
    WHOLE
    + """
local held = whole(redis.call('HGET', KEYS[1], 'epoch')) or 0
if held > 4000000000000 then held = 0 end -- Garbage: the epochs above it would soon pass NUMBER_MAX.
local epoch = math.max(held, tonumber(ARGV[1])) + 1
redis.call('HSET', KEYS[1], 'epoch', epoch)
return epoch
"""
)

# After a lost reply the client sends the same save again; the script knows it by the digest.
# KEYS: head, snapshots, notes. ARGV: epoch, offset, digest, snapshot, note, number of versions to keep, base, token,
# number of changed rows, version of the attempt, undo prefix, rows prefix, then each table and its number of rows.
_SAVE = (
    PRELUDE
    + """
if head('digest') == ARGV[3] then return {0, number('version')} end
local version, kept = newest()
local _, first = tables()
local attempt, undo = number('attempt'), ARGV[11]
if ARGV[8] ~= '0' and head('token') ~= ARGV[8] then return {-3} end
if head('doomed') then return damaged('a rewind was begun and not finished') end
if version < tonumber(ARGV[7]) then
  return damaged('the snapshot rests on version ', ARGV[7], ', and the store has lost all after ', version)
end
if first then
  if head('by') ~= ARGV[1] then return damaged('epoch ', ARGV[1], ' has not rewound the tables yet') end
  if tonumber(ARGV[2]) < number('offset') then
    return damaged('the rows stand at offset ', head('offset'), ', past ', ARGV[2])
  end
end
if ARGV[8] ~= '0' and attempt ~= tonumber(ARGV[10]) then return damaged('the attempt is not the one that began') end
if attempt > 0 then
  local rows = redis.call('HLEN', undo .. attempt) - 1
  if rows ~= tonumber(ARGV[9]) then
    return damaged('the journal of version ', attempt, ' has ', rows, ' rows, and ', ARGV[9], ' were changed')
  end
end
for i = 13, #ARGV, 2 do
  local rows = redis.call('HLEN', ARGV[12] .. ARGV[i])
  if rows ~= tonumber(ARGV[i + 1]) then
    return damaged('the table ', ARGV[i], ' has ', rows, ' rows instead of ', ARGV[i + 1])
  end
end
version = attempt > 0 and attempt or version + 1
if first and attempt == 0 then
  redis.call('UNLINK', undo .. version)
  redis.call('HSET', undo .. version, '', 1)
end
redis.call('HSET', KEYS[2], version, ARGV[4])
redis.call('HSET', KEYS[3], version, ARGV[5])
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'version', version, 'offset', ARGV[2], 'digest', ARGV[3])
redis.call('HDEL', KEYS[1], 'attempt')
kept[#kept + 1] = version
table.sort(kept, function(one, other) return one > other end)
for i, old in ipairs(kept) do
  if i > tonumber(ARGV[6]) then
    redis.call('HDEL', KEYS[2], old)
    redis.call('HDEL', KEYS[3], old)
  end
  -- No rewind goes back before the oldest version that is kept, so its journal is not needed any more.
  if i >= math.min(tonumber(ARGV[6]), #kept) then redis.call('UNLINK', undo .. old) end
end
return {0, version}
"""
)


_NOTHING: Mapping[str, Mapping[bytes, bytes | None]] = MappingProxyType({})


def plain_errors(call: Callable[P, T]) -> Callable[P, T]:
    """Turn the errors of the Redis client into StoreAway and StoreRefused."""

    @functools.wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except CLIENT_ERRORS as error:
            raise translate(error, wrong_key=lambda: _wrong_key(args)) from error

    return guarded


class LoadedSnapshot(msgspec.Struct):
    """A shard's newest usable snapshot and its version, or (None, 0).

    `faults` has the reason why each newer one is not usable; `ahead` is the oldest valid snapshot whose offset is too
    high.
    """

    snapshot: Snapshot | None = None
    version: int = 0
    faults: list[str] = msgspec.field(default_factory=list)
    ahead: Snapshot | None = None


class StoreHead(msgspec.Struct, frozen=True):
    """The number of a shard's newest version, 0 for none, and the digest that tells it from others of that number."""

    version: int
    digest: bytes


class Store:
    """The snapshots of one pipeline, `name`, in the Redis at `url`: see `state/store/address.py`.

    `client_options` and `sentinel_options` are properties of redis-py. Raises StoreRefused for an invalid URL.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        keep: int = 3,
        timeout_s: float = TIMEOUT_S,
        sign_key: bytes = b"",
        client_options: Mapping[str, Any] = MappingProxyType({}),
        sentinel_options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._name = name
        self.seal = Seal(name, sign_key)
        self._keep = keep
        try:
            address = parse(url)
        except AddressInvalid as error:
            raise StoreRefused(f"redis.url is not a valid address: {error}") from None
        self.client = make_client(
            address, timeout_s=timeout_s, options=client_options, sentinel_options=sentinel_options
        )
        self._claim, self._save = Script(self.client, _CLAIM), Script(self.client, _SAVE)
        self._tables = Tables(self.client, seal=self.seal, key=self._key, check=_check_answer)

    @plain_errors
    def ping(self) -> None:
        """Check that the store answers. Raises StoreAway or StoreRefused."""
        self.client.ping()

    @plain_errors
    def claim(self, partition: int, *, floor: int) -> int:
        """Become the owner of a shard; return a new epoch, above every earlier one and above `floor`."""
        self._tables.forget(partition)
        return int(cast("int", self._claim(keys=[self._key(partition, "head")], args=[floor])))

    def save(
        self, snapshot: Snapshot, *, changes: Mapping[str, Mapping[bytes, bytes | None]] = _NOTHING, base: int = 0
    ) -> int:
        """Save a version atomically and return its number. Raises StoreFenced, StoreAway, TableDamaged.

        `changes` has the rows of each table that changed since version `base`, None for a row to delete. After
        StoreAway some rows may be written, without a version: until a save succeeds, each must bring these rows again,
        even if they have changed back. A base of 0 is not checked.
        """
        packed = {table: pack(rows, self.seal.rows(snapshot.partition, table)) for table, rows in changes.items()}
        return self.save_packed(snapshot, packed=packed, base=base)

    @plain_errors
    def save_packed(self, snapshot: Snapshot, *, packed: Mapping[str, PackedRows], base: int) -> int:
        """Save as `save` does, with changes that are packed already."""
        partition, epoch, digest = snapshot.partition, snapshot.epoch, self._digest(snapshot, packed)
        attempt = self._tables.write(partition, epoch=epoch, digest=digest, base=base, packed=packed)
        sums = {table: sum_bytes(total) for table, total in attempt.sums.items()}
        sealed = encode(msgspec.structs.replace(snapshot, sums=sums), self.seal)
        note = write_note(snapshot, self.seal, size=len(sealed))
        self._tables.expect(partition, digest, attempt.sums)
        answer = self._save(
            keys=[self._key(partition, part) for part in ("head", "snapshots", "notes")],
            args=[
                *(epoch, snapshot.offset, digest, sealed, note, self._keep, base),
                *(attempt.token, attempt.rows, attempt.version),
                *(self._key(partition, "undo:"), self._key(partition, "rows:")),
                *(part for table in snapshot.tables.items() for part in table),
            ],
        )
        version = int(_check_answer(answer, partition, epoch)[0])
        self._tables.confirm(partition, digest)
        return version

    def _digest(self, snapshot: Snapshot, packed: Mapping[str, PackedRows]) -> str:
        """Return a digest that differs for each save; it covers the changed rows by their weights."""
        models = {
            name: msgspec.structs.replace(saved, state=hashlib.sha256(saved.state).digest())
            for name, saved in snapshot.models.items()
        }
        weights = {table: changed.weight for table, changed in packed.items()}
        return hashlib.sha256(
            encode(msgspec.structs.replace(snapshot, models=models, sums=weights), self.seal)
        ).hexdigest()

    @plain_errors
    def rewind(self, partition: int, *, epoch: int, version: int, sums: Mapping[str, bytes] | None = None) -> None:
        """Put the tables back to their state at a version that is kept, and drop every newer version; 0 empties all.

        `sums` are those of the version's snapshot; without them the snapshot is read.

        Every new owner calls this before its first save, and again after a rewind that failed. The numbers of dropped
        versions are not used again. Raises StoreFenced, StoreAway, and TableDamaged: when a journal is lost, and then
        nothing has changed, or when the rows are afterwards not those of the version. 0 always succeeds.
        """
        if sums is None:
            sums = self._sums_of(partition, version)
        self._tables.rewind(partition, epoch=epoch, version=version, sums=sums)

    def _sums_of(self, partition: int, version: int) -> Mapping[str, bytes]:
        sealed = cast("bytes | None", self.client.hget(self._key(partition, "snapshots"), str(version)))
        try:
            return {} if sealed is None else decode(sealed, self.seal, partition=partition).sums
        except SnapshotError as error:
            raise TableDamaged(f"partition {partition}: version {version} can't be read: {error}") from error

    def rows(self, partition: int, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of a table in no order; a row may come twice. Raises StoreAway, TableDamaged."""
        for page in self.pages(partition, table):
            yield from page

    def pages(self, partition: int, table: str) -> Iterator[Sequence[tuple[bytes, bytes]]]:
        """Yield the rows as `rows` does, in pages; a page is read when it is asked for."""
        pages = self._tables.pages(partition, table)
        while (page := _next(pages)) is not None:
            yield page

    @plain_errors
    def fetch(
        self, partition: int, table: str, keys: Sequence[bytes], *, base: TableVersion | None = None
    ) -> list[bytes | None]:
        """Return the values of rows, None for a missing one, in one round trip. Raises StoreAway.

        `base` is the owner's version of the table: with it, raises StoreFenced when the shard has a newer owner, and
        TableDamaged when the store has lost versions or rows.
        """
        values, found = self._tables.fetch(partition, table, keys)
        if base is not None and found.epoch > base.epoch:
            raise StoreFenced(f"partition {partition} belongs to epoch {found.epoch}; this worker has {base.epoch}")
        # More rows than at `base` are no fault: a save may be under way, or have failed after some chunks.
        if base is not None and (found.version < base.version or found.rows < base.rows):
            raise TableDamaged(
                f"partition {partition}: at version {found.version} the table {table} has {found.rows} rows; it had "
                f"{base.rows} at version {base.version}"
            )
        return values

    @plain_errors
    def has_tables(self, partition: int) -> bool:
        """Tell whether a shard has, or had, tables of rows."""
        fields = cast("list[bytes]", self.client.hkeys(self._key(partition, "head")))
        return any(field.startswith(b"table:") for field in fields)

    @plain_errors
    def version(self, partition: int) -> int:
        """Return the highest version number that a shard ever had; 0 when it had none."""
        return whole(cast("bytes | None", self.client.hget(self._key(partition, "head"), "version"))) or 0

    @plain_errors
    def heads(self, partitions: Sequence[int]) -> list[StoreHead]:
        """Return the newest version of each of these shards, in one round trip."""
        commands = self.client.pipeline(transaction=False)
        for partition in partitions:
            commands.hmget(self._key(partition, "head"), "version", "digest")
        found = cast("list[list[bytes | None]]", commands.execute() if partitions else [])
        return [StoreHead(whole(version) or 0, digest or b"") for version, digest in found]

    @plain_errors
    def epoch(self, partition: int) -> int:
        """Return the epoch of a shard's newest owner; 0 when it had none."""
        return whole(cast("bytes | None", self.client.hget(self._key(partition, "head"), "epoch"))) or 0

    @plain_errors
    def count(self, partition: int, table: str) -> int:
        """Return the number of a table's rows."""
        return self._tables.count(partition, table)

    @plain_errors
    def load(
        self,
        partition: int,
        *,
        at_most: int = 2**63 - 1,
        start: int | None = None,
        newest: int | None = None,
        topic: tuple[str, str] | None = None,
    ) -> LoadedSnapshot:
        """Find the newest valid snapshot with an offset of at most `at_most` and a version of at most `newest`.

        With `start`, skip snapshots whose model began at another offset. With `topic`, a name and an id, skip those of
        other topics.
        """
        fields = cast("list[bytes]", self.client.hkeys(self._key(partition, "snapshots")))
        versions = {field: whole(field) for field in fields}
        invalid = [field for field, version in versions.items() if version is None]
        found = LoadedSnapshot(faults=[f"version {field[:_SHOWN_BYTES]!r} is not a number" for field in invalid])
        for version in sorted((version for version in versions.values() if version is not None), reverse=True):
            if newest is not None and version > newest:
                continue
            sealed = cast("bytes | None", self.client.hget(self._key(partition, "snapshots"), str(version)))
            if sealed is None:
                continue
            try:
                snapshot = decode(sealed, self.seal, partition=partition)
            except SnapshotError as error:
                found.faults.append(f"version {version}: {error}")
                continue
            if topic is not None and (snapshot.topic, snapshot.topic_id) != topic:
                found.faults.append(f"version {version}: of another topic, {snapshot.topic} ({snapshot.topic_id})")
                continue
            if start is not None and snapshot.start != start:
                found.faults.append(f"version {version}: of a history from {snapshot.start}, not from {start}")
                continue
            if snapshot.offset > at_most:
                found.faults.append(f"version {version}: at offset {snapshot.offset}, past {at_most}")
                found.ahead = snapshot
                continue
            found.version, found.snapshot = version, snapshot
            break
        return found

    @plain_errors
    def notes(self, partition: int) -> list[dict[str, Any]]:
        """Return the note of each version of a shard, the newest first, without loading a model."""
        notes = cast("dict[bytes, bytes]", self.client.hgetall(self._key(partition, "notes")))
        read = {whole(version): read_note(note, self.seal, partition=partition) for version, note in notes.items()}
        known = ((version, note) for version, note in read.items() if version is not None and note is not None)
        return [{"version": version, **note} for version, note in sorted(known, reverse=True, key=lambda item: item[0])]

    @plain_errors
    def partitions(self) -> list[int]:
        """Return the partitions of all shards in the store, in order."""
        return sorted(set(self._partitions()))

    def _partitions(self) -> Iterator[int]:
        for key in self.client.scan_iter(match=f"{escape(self._name)}:{{*}}:head", count=1_000):
            tag = bytes(key).rpartition(b"}:")[0]
            partition = whole(tag.rpartition(b"/")[2])
            # The pattern may also match a key of another pipeline.
            if partition is not None and bytes(key) == self._key(partition, "head").encode():
                yield partition

    def _key(self, partition: int, part: str) -> str:
        return f"{self._name}:{{{self._name}/{partition}}}:{part}"


def _wrong_key(args: Sequence[Any]) -> str:
    """Name the key of the wrong type; the store is one of a call's arguments, or belongs to one."""
    with contextlib.suppress(StopIteration, RedisError):
        store = next(found for arg in args if isinstance(found := getattr(arg, "store", arg), Store))
        if (key := find_wrong_type(store.client, store.seal.name)) is not None:
            return f"the key {key}"
    return "the key of the pipeline that is neither a hash nor a worker's note (redis-cli: SCAN, TYPE)"


@plain_errors
def _next(pages: Iterator[T]) -> T | None:
    return next(pages, None)


def _check_answer(answer: Any, partition: int, epoch: int) -> list[Any]:
    """Return a script's result. Raises StoreFenced, TableDamaged, or StoreAway, as its first number says."""
    status, *result = cast("list[Any]", answer)
    if status == _FENCED:
        raise StoreFenced(f"partition {partition} belongs to epoch {result[0]}; this worker has {epoch}")
    if status == _DAMAGED:
        raise TableDamaged(f"partition {partition}: {result[0].decode()}")
    if status == _LATE:
        raise StoreAway(f"partition {partition}: a newer attempt has begun; the store may have been slow")
    return result
