"""The rows of a shard's tables. They are saved with its snapshots, but are too many to write all: only changes are.

No script may write a million rows: Redis serves no other client meanwhile. So rows are changed in place, in chunks,
with a rollback journal as in SQLite. The script that changes a row for the first time in a version first copies the old
row into that version's journal. An attempt begins when its version's number is written into the head, and ends with the
script that saves the snapshot. A new owner of the shard rewinds: it applies the journals, the newest first. Each puts
the rows back to their state before its version; applying it twice is the same as once.

Scripts may come late or twice, or to a store that went back in time. Three rules make them harmless: each attempt has a
token, and a script with an older one is refused; an owner must rewind before it saves; and a version is saved only if
its journal has as many rows as were changed.

A snapshot holds the sum of the weights of each table's rows (`state/seal.py`). The owner keeps the sum: it adds the
weight of each row that it writes, and subtracts that of the row before. A new owner adds up all rows: so it finds rows
that were replaced by older ones, even one of a million. A field of the head that should hold a number and does not is
read as missing.

Keys, beside those of `store.py`: `…:rows:<table>` (key to sealed value) and `…:undo:<version>`, the journal (table,
NUL, key to the old row; empty for a row that did not exist; an empty field marks a journal without rows). Fields of the
head: `attempt`, `token`, `by` (the epoch that last rewound or saved), `doomed` (versions that an unfinished rewind has
to undo) and `table:<name>` (the version in which a table began).
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
import redis

from headrace.state.row_packing import BYTES_MAX, ROWS_MAX, PackedRows, TableDamaged, TableVersion
from headrace.state.seal import ROW_BYTES, RowSeal, Seal, SealError, add_weight, split_keys
from headrace.state.store.client import Script
from headrace.state.store.lua_scripts import BEGIN, DROP, NUMBER_MAX, RESTORE, REWIND, SEALS, WRITE

# A small first page, since the size of the rows is not known yet.
_FIRST_PAGE = 16
_SCANS_MAX = 5
_UNCONFIRMED_MAX = 100


class TableWrite(msgspec.Struct, frozen=True):
    """Changes that are written and wait for the script that saves their version. A token of 0: no changes.

    `sums` are the sums of the tables after these changes.
    """

    sums: Mapping[str, int]
    token: int = 0
    rows: int = 0
    version: int = 0


CheckAnswer = Callable[[Any, int, int], list[Any]]
"""Returns a script's result, or raises its refusal; called with the answer, the partition and the epoch."""


class Tables:
    """The rows and journals of one pipeline's shards; errors of the Redis client are not translated here."""

    def __init__(
        self, client: "redis.Redis", *, seal: Seal, key: Callable[[int, str], str], check: CheckAnswer
    ) -> None:
        self._client = client
        self._seal = seal
        self._key = key
        self._check = check
        # The sums of each shard's tables after a save, by the digest of the save: several, while it is not known which
        # save was the last to succeed.
        self._sums: dict[int, dict[bytes, Mapping[str, int]]] = {}
        self._begin, self._write, self._rewind, self._restore, self._drop, self._seals = (
            Script(client, script) for script in (BEGIN, WRITE, REWIND, RESTORE, DROP, SEALS)
        )

    def forget(self, partition: int) -> None:
        """Forget the sums of a shard that is taken over anew."""
        self._sums.pop(partition, None)

    def expect(self, partition: int, digest: str, sums: Mapping[str, int]) -> None:
        """Note the sums of a shard after a save that is about to be sent."""
        known = self._sums.setdefault(partition, {b"": {}})
        known[digest.encode()] = sums
        if len(known) > _UNCONFIRMED_MAX:
            # Keep the first, the last confirmed save; drop the oldest of the others, the least likely.
            del known[next(itertools.islice(known, 1, None))]

    def confirm(self, partition: int, digest: str) -> None:
        """Note that a save has succeeded."""
        known = self._sums[partition]
        self._sums[partition] = {digest.encode(): known[digest.encode()]}

    def write(
        self, partition: int, *, epoch: int, digest: str, base: int, packed: Mapping[str, PackedRows]
    ) -> TableWrite:
        """Write the changed rows in chunks, and the old ones to the journal; the caller then saves the version.

        Raises TableDamaged, StoreFenced, StoreAway; after StoreAway the same owner may continue the attempt.
        """
        named = [table for table, changed in packed.items() if changed.rows]
        known = self._sums.get(partition, {b"": {}})
        if not named:
            # All saves that may be the last have the same rows.
            return TableWrite(next(iter(known.values())))
        if not all(named) or any("\0" in table for table in named):
            raise ValueError("a table's name is not empty and has no NUL in it")
        args = [epoch, digest, base, self._key(partition, "undo:"), self._key(partition, "rows:"), *named]
        version, token, after = self._ask(self._begin, partition, ("head", "snapshots"), args)
        if not token:
            return TableWrite(known.get(after, {}))
        if after not in known:
            raise TableDamaged(f"partition {partition}: another worker made the last save")
        self._sums[partition] = {after: known[after]}
        sums = dict(known[after])
        for table in named:
            parts, seal = ("head", f"rows:{table}", f"undo:{version}"), self._seal.rows(partition, table)
            total = add_weight(sums.get(table, 0), int.from_bytes(packed[table].weight))
            for chunk in packed[table].chunks:
                old_seals, *keys = self._ask(self._write, partition, parts, [epoch, token, table, chunk])
                total = add_weight(total, -seal.weigh(split_keys(*keys), old_seals))
            sums[table] = total
        return TableWrite(sums, token, sum(packed[table].rows for table in named), version)

    def rewind(self, partition: int, *, epoch: int, version: int, sums: Mapping[str, bytes]) -> None:
        """Put the rows back to their state at a version, which has these sums, and drop all newer versions.

        Raises TableDamaged when the rows are then not those of that version.
        """
        self.forget(partition)
        undo, rows = self._key(partition, "undo:"), self._key(partition, "rows:")
        orphans = self._orphans(partition) if version == 0 else []
        parts = ("head", "snapshots", "notes")
        token, *doomed = self._ask(self._rewind, partition, parts, [epoch, version, undo, rows, *orphans])
        for newer in doomed:
            self._undo(partition, epoch, token, newer)
        if doomed:
            self._ask(self._drop, partition, ("head",), [epoch, token, undo])
        totals = {table: int.from_bytes(total) for table, total in sums.items()}
        for table, total in totals.items():
            if self._add_up(partition, table) != total:
                raise TableDamaged(
                    f"partition {partition}: rows of the table {table} are not those of version {version}"
                )
        self._sums[partition] = {b"": totals}

    def pages(self, partition: int, table: str) -> Iterator[list[tuple[bytes, bytes]]]:
        """Yield all rows in pages of bounded size; a row may come twice. Raises TableDamaged."""
        name, cursor, count = self._key(partition, f"rows:{table}"), 0, _FIRST_PAGE
        seal = self._seal.rows(partition, table)
        while True:
            cursor, found = cast("tuple[int, dict[bytes, bytes]]", self._client.hscan(name, cursor, count=count))
            count = _page(len(found), sum(map(len, found.values())))
            yield [(key, _open(seal, partition, table, key, sealed)) for key, sealed in found.items()]
            if not cursor:
                return

    def fetch(self, partition: int, table: str, keys: Sequence[bytes]) -> tuple[list[bytes | None], TableVersion]:
        """Return the values of rows, None for a missing one, and the shard's version, in one round trip.

        Raises TableDamaged.
        """
        commands = self._client.pipeline(transaction=False)
        commands.hmget(self._key(partition, "head"), "epoch", "version")
        commands.hlen(self._key(partition, f"rows:{table}"))
        for start in range(0, len(keys), ROWS_MAX):
            commands.hmget(self._key(partition, f"rows:{table}"), list(keys[start : start + ROWS_MAX]))
        (epoch, version), rows, *parts = commands.execute()
        seal = self._seal.rows(partition, table)
        values = [
            None if sealed is None else _open(seal, partition, table, key, sealed)
            for key, sealed in zip(keys, (sealed for part in parts for sealed in part), strict=True)
        ]
        return values, TableVersion(whole(epoch) or 0, whole(version) or 0, rows)

    def count(self, partition: int, table: str) -> int:
        """Return the number of a table's rows."""
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

    def _add_up(self, partition: int, table: str) -> int:
        """Return the sum of all rows of a table. Raises TableDamaged."""
        name, seal = self._key(partition, f"rows:{table}"), self._seal.rows(partition, table)
        for _ in range(_SCANS_MAX):
            total = rows = 0
            cursor, count = b"0", _FIRST_PAGE
            while True:
                cursor, found, size, seals, *keys = self._seals(keys=[name], args=[cursor, count])
                if len(seals) != found * ROW_BYTES:
                    raise TableDamaged(f"partition {partition}: a row of the table {table} has no seal")
                rows, total = rows + found, add_weight(total, seal.weigh(split_keys(*keys), seals))
                count = _page(found, size)
                if cursor == b"0":
                    break
            # A scan may return a row twice while the store resizes the hash: then scan again.
            if rows == self._client.hlen(name):
                return total
        raise TableDamaged(f"partition {partition}: the table {table} changes while its rows are added up")

    def _ask(self, script: Script, partition: int, parts: Sequence[str], args: list[Any]) -> list[Any]:
        """Run a script on keys of a shard; the first argument is the epoch."""
        return self._check(script(keys=[self._key(partition, part) for part in parts], args=args), partition, args[0])

    def _orphans(self, partition: int) -> list[bytes]:
        """Return the keys of a shard's rows and journals when the head, which lists their names, is lost."""
        if self._client.hexists(self._key(partition, "head"), "version"):
            return []
        found: list[bytes] = []
        for part in ("rows:", "undo:"):
            pattern = escape(self._key(partition, part)) + "*"
            found.extend(self._client.scan_iter(match=pattern, count=ROWS_MAX))
        return found


def _open(seal: RowSeal, partition: int, table: str, key: bytes, sealed: bytes) -> bytes:
    try:
        return seal.open(key, sealed)
    except SealError as error:
        raise TableDamaged(
            f"partition {partition}: the row {key!r} of the table {table} can't be read: {error}"
        ) from error


def whole(text: bytes | None) -> int | None:
    """Read a whole number from 0 to `NUMBER_MAX`; None for any other bytes."""
    if text is None or not re.fullmatch(rb"0|[1-9][0-9]{0,12}", text):
        return None
    return found if (found := int(text)) <= NUMBER_MAX else None


def find_wrong_type(client: "redis.Redis", name: str) -> str | None:
    """Return a key of the pipeline that has the wrong Redis type."""
    for key in client.scan_iter(match=f"{escape(name)}:{{*", count=ROWS_MAX):
        wanted = b"string" if b":worker:" in key or key.endswith(b":server") else b"hash"
        if client.type(key) != wanted:
            return bytes(key).decode(errors="replace")
    return None


def escape(name: str) -> str:
    """Escape a name for use in a pattern of SCAN."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in name)


def _page(rows: int, size: int) -> int:
    """Return the number of rows to ask for next, after a page of `rows` rows and `size` bytes."""
    return max(1, min(ROWS_MAX, BYTES_MAX * max(rows, 1) // max(size, 1)))
