"""Rows that belong to a shard and are saved with it, too many to be written each time: only what changed goes out.

No single script may write a million rows, since Redis serves nobody meanwhile. So rows are changed in place, in
chunks, with a rollback journal as in SQLite: before a row changes for the first time in a version, what it was
goes into that version's journal, in the same script. An attempt begins with its version's number in the head and
ends in the script that saves the snapshot. Whoever takes the shard over rewinds: journals are applied newest
first, each puts the rows back to where they stood before its version, and doing it twice is doing it once.

Three things make every script harmless that comes late, or twice, or to a store that went back in time:
each try has a token, drawn when it begins, and what carries an older one is refused; an owner must have rewound
before it saves; and a journal must hold as many rows as were changed, or the version does not come about.

A snapshot holds the sum of each table's rows (`seal`). The owner knows it as of the version that it took over or saved
last, and changes it by what the rows weigh that it writes, and what those weighed that the journal has. Whoever takes
the shard over adds up what is there: rows that somebody put back to older bytes are found, be it one of a million.
Nothing that stands in the head is believed beyond that: a field that holds no number counts as none.

Keys, beside those of `store`: `…:rows:<table>` (key to sealed value), `…:undo:<version>` (table, NUL, key to
what was there; empty for nothing; and a mark under the empty field, so that no rows differ from no journal).
In the head: `attempt`, `token`, `by` (the epoch that last rewound or saved), `doomed` (versions that a rewind
has not finished with) and `table:<name>` (the version in which a table began).
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
import redis

from headrace.state.row_packing import BYTES_MAX, ROWS_MAX, PackedRows, TableDamaged, TableVersion
from headrace.state.seal import ROW_BYTES, RowSeal, Seal, SealError, add, split
from headrace.state.store.lua_scripts import BEGIN, DROP, NUMBER_MAX, RESTORE, REWIND, SEALS, WRITE

# Nothing is known of the rows' sizes before the first page: a small one asks.
_FIRST_PAGE = 16
_SCANS_MAX = 5
_DOUBTS_MAX = 100


class TableWrite(msgspec.Struct, frozen=True):
    """Changes that stand in the store and wait for the script that makes a version of them; token 0: there are none.

    `sums` are those of the tables with these changes.
    """

    sums: Mapping[str, int]
    token: int = 0
    rows: int = 0
    version: int = 0


Judge = Callable[[Any, int, int], list[Any]]
"""Gives what a script answered, or raises what it refused; of answer, partition, epoch."""


class Tables:
    """The rows and journals of one pipeline's shards; what the client raises comes through."""

    def __init__(self, client: "redis.Redis", *, seal: Seal, key: Callable[[int, str], str], judge: Judge) -> None:
        self._client = client
        self._seal = seal
        self._key = key
        self._judge = judge
        # The sums of each shard's tables, by the digest of the save after which they are that. There are several while
        # it is not known which was the last to go through.
        self._sums: dict[int, dict[bytes, Mapping[str, int]]] = {}
        self._begin, self._write, self._rewind, self._restore, self._drop, self._seals = (
            client.register_script(script) for script in (BEGIN, WRITE, REWIND, RESTORE, DROP, SEALS)
        )

    def forget(self, partition: int) -> None:
        """Forget the sums of a shard that is taken over anew."""
        self._sums.pop(partition, None)

    def expect(self, partition: int, digest: str, sums: Mapping[str, int]) -> None:
        """Note what the sums of a shard are after a save that is about to go through."""
        known = self._sums.setdefault(partition, {b"": {}})
        known[digest.encode()] = sums
        if len(known) > _DOUBTS_MAX:
            # The first is the last that was heard of. Of those that were not heard of the newest are the likelier.
            del known[next(itertools.islice(known, 1, None))]

    def confirm(self, partition: int, digest: str) -> None:
        """Note that a save has gone through."""
        known = self._sums[partition]
        self._sums[partition] = {digest.encode(): known[digest.encode()]}

    def write(
        self, partition: int, *, epoch: int, digest: str, base: int, packed: Mapping[str, PackedRows]
    ) -> TableWrite:
        """Write the changed rows in chunks, each with what it was before; a version is for the caller to make of it.

        Raises TableDamaged, StoreFenced, StoreAway; after the last the same owner may go on where it stopped.
        """
        named = [table for table, changed in packed.items() if changed.rows]
        known = self._sums.get(partition, {b"": {}})
        if not named:
            # Where it is not known which save was the last, they differ in no row.
            return TableWrite(next(iter(known.values())))
        if not all(named) or any("\0" in table for table in named):
            raise ValueError("a table's name is not empty and has no NUL in it")
        args = [epoch, digest, base, self._key(partition, "undo:"), self._key(partition, "rows:"), *named]
        version, token, after = self._ask(self._begin, partition, ("head", "snapshots"), args)
        if not token:
            return TableWrite(known.get(after, {}))
        if after not in known:
            raise TableDamaged(f"partition {partition}: what was saved last was not saved by this worker")
        self._sums[partition] = {after: known[after]}
        sums = dict(known[after])
        for table in named:
            parts, seal = ("head", f"rows:{table}", f"undo:{version}"), self._seal.rows(partition, table)
            total = add(sums.get(table, 0), int.from_bytes(packed[table].weight))
            for chunk in packed[table].chunks:
                past, *keys = self._ask(self._write, partition, parts, [epoch, token, table, chunk])
                total = add(total, -seal.weigh(split(*keys), past))
            sums[table] = total
        return TableWrite(sums, token, sum(packed[table].rows for table in named), version)

    def rewind(self, partition: int, *, epoch: int, version: int, sums: Mapping[str, bytes]) -> None:
        """Put the rows back to where they stood at a version, which has these sums, and drop what came after it.

        Raises TableDamaged where the rows are not those of that version.
        """
        self.forget(partition)
        undo, rows = self._key(partition, "undo:"), self._key(partition, "rows:")
        lost = self._lost(partition) if version == 0 else []
        parts = ("head", "snapshots", "notes")
        token, *doomed = self._ask(self._rewind, partition, parts, [epoch, version, undo, rows, *lost])
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
        """Go through all rows, a page of bounded size at a time; a row may come twice. Raises TableDamaged."""
        name, cursor, count = self._key(partition, f"rows:{table}"), 0, _FIRST_PAGE
        seal = self._seal.rows(partition, table)
        while True:
            cursor, found = cast("tuple[int, dict[bytes, bytes]]", self._client.hscan(name, cursor, count=count))
            count = _page(len(found), sum(map(len, found.values())))
            yield [(key, _open(seal, partition, table, key, sealed)) for key, sealed in found.items()]
            if not cursor:
                return

    def fetch(self, partition: int, table: str, keys: Sequence[bytes]) -> tuple[list[bytes | None], TableVersion]:
        """Return the values of rows, None for one that is not there, and where the shard stands, in one round trip.

        Raises TableDamaged.
        """
        asked = self._client.pipeline(transaction=False)
        asked.hmget(self._key(partition, "head"), "epoch", "version")
        asked.hlen(self._key(partition, f"rows:{table}"))
        for start in range(0, len(keys), ROWS_MAX):
            asked.hmget(self._key(partition, f"rows:{table}"), list(keys[start : start + ROWS_MAX]))
        (epoch, version), rows, *parts = asked.execute()
        seal = self._seal.rows(partition, table)
        values = [
            None if sealed is None else _open(seal, partition, table, key, sealed)
            for key, sealed in zip(keys, (sealed for part in parts for sealed in part), strict=True)
        ]
        return values, TableVersion(whole(epoch) or 0, whole(version) or 0, rows)

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

    def _add_up(self, partition: int, table: str) -> int:
        """Return the sum of all rows of a table. Raises TableDamaged."""
        name, seal = self._key(partition, f"rows:{table}"), self._seal.rows(partition, table)
        for _ in range(_SCANS_MAX):
            total = rows = 0
            cursor, count = b"0", _FIRST_PAGE
            while True:
                cursor, found, size, seals, *keys = self._seals(keys=[name], args=[cursor, count])
                if len(seals) != found * ROW_BYTES:
                    raise TableDamaged(f"partition {partition}: a row of the table {table} is none")
                rows, total = rows + found, add(total, seal.weigh(split(*keys), seals))
                count = _page(found, size)
                if cursor == b"0":
                    break
            # While the store lays a hash out anew, a row may come twice.
            if rows == self._client.hlen(name):
                return total
        raise TableDamaged(f"partition {partition}: the table {table} changes while its rows are added up")

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


def _open(seal: RowSeal, partition: int, table: str, key: bytes, sealed: bytes) -> bytes:
    try:
        return seal.open(key, sealed)
    except SealError as error:
        raise TableDamaged(
            f"partition {partition}: the row {key!r} of the table {table} can't be read: {error}"
        ) from error


def whole(text: bytes | None) -> int | None:
    """Read a number that may be anything: a whole one from 0 to `NUMBER_MAX`, else None."""
    if text is None or not re.fullmatch(rb"0|[1-9][0-9]{0,12}", text):
        return None
    return found if (found := int(text)) <= NUMBER_MAX else None


def stray(client: "redis.Redis", name: str) -> str | None:
    """Find a key of a pipeline that is of another type than it should be."""
    for key in client.scan_iter(match=f"{escape(name)}:{{*", count=ROWS_MAX):
        wanted = b"string" if b":worker:" in key else b"hash"
        if client.type(key) != wanted:
            return bytes(key).decode(errors="replace")
    return None


def escape(name: str) -> str:
    """Make a pattern that matches the name alone."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in name)


def _page(rows: int, size: int) -> int:
    """Return how many rows to ask for next, when the last page had `rows` of `size` bytes together."""
    return max(1, min(ROWS_MAX, BYTES_MAX * max(rows, 1) // max(size, 1)))
