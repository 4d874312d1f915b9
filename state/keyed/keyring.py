"""A model for every key: the hot ones in memory, all of them in the store.

A batch's cold keys are fetched in one round trip before it is learned, and a snapshot writes the keys that have
changed since the last; the stream may go on while it is on its way. A key that is met for the first time is born as
the factory makes it, or as a copy of the model of all keys. One that was silent for too long, by the time of the
stream, is forgotten, and is born again when it comes back; whether it lay in memory or in the store, or was swept from
there, makes no difference.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress, filterfalse
from typing import Annotated, Any

import msgspec

from headrace.state.event_time import EventClock, Times
from headrace.state.keyed.array_bank import ArrayBank
from headrace.state.keyed.bank import Bank
from headrace.state.keyed.cached_key import CachedKey, KeysSave
from headrace.state.models.columns import Answers, Columns
from headrace.state.models.learner import Answer, ModelError
from headrace.state.models.model import Scope, UndoStep
from headrace.state.row_packing import PackedRows, RowPacker, TableDamaged, TableVersion, pack
from headrace.state.seal import UNREADABLE, RowSeal

TABLE = "keys"
"""The shard's table in the store: a row for each key."""

Fetch = Callable[[Sequence[bytes], TableVersion], Sequence[bytes | None]]
"""Gives the rows of keys, None for one that has none, in one round trip; may raise what the store raises.

It is told whose the shard is, at which version the store should stand at least, and how many rows it should have.
"""
ScanRows = Callable[[], Iterator[Sequence[tuple[bytes, bytes]]]]
"""Goes through all rows, page by page as they are at that moment; may raise what the store raises."""

_PRIOR = b""
# What a row costs beside its model, in the time that so many bytes of one take: about 15 us in arrays, 100 as objects.
_ROW_BYTES, _OBJECT_BYTES = 400, 1_500
# Above that, rows take more than a few milliseconds to be written down and saved.
_HEAVY_BYTES = 200_000
# To let go of so many takes a millisecond or two.
_TRIM_MIN = 1_000
# So many times what should be in memory is too much, while a save is under way that would make room.
_FULL = 2


class KeyRow(msgspec.Struct, frozen=True, array_like=True):
    """One key in the store: when it was last seen, by the time of the stream in ms, and its model."""

    seen_ms: Annotated[int, msgspec.Meta(ge=-1, le=2**62)]
    model: bytes


class KeyringState(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot holds of all keys: the stream's time, and the model of all keys, if there is one."""

    times: Times
    prior: bytes


class Keyring:
    """The models of one partition, one for each key, in a `bank`.

    `hot_max` bounds those in memory; what has changed stays until it is saved, so there may be more until then.
    `silent_ms` is how long a key may be silent, None for ever. With `prior`, a bank of its own for the model of all
    keys, a new key begins as that model stands.
    """

    scope: Scope = "key"
    version = None

    def __init__(
        self,
        bank: Bank,
        *,
        fetch: Fetch,
        scan: ScanRows,
        hot_max: int,
        silent_ms: int | None = None,
        prior: Bank | None = None,
    ) -> None:
        self.task = bank.task
        self.codec = bank.codec
        self.spec = bank.spec
        self.label = bank.label
        # With a prior, each record that is learned changes what the next new key begins with.
        self.compiled = bank if isinstance(bank, ArrayBank) and bank.takes_many and prior is None else None
        self._bank = bank
        self._fetch = fetch
        self._scan = scan
        self._hot_max = hot_max
        self._silent_ms = silent_ms
        self._prior = prior
        self._prior_hot = CachedKey()
        # Where no silence ends anything, time need not pass.
        self._clock = EventClock(silent_ms or 0)
        # The records of the last `take` whose event time was not believed, by place, and how far ahead it was.
        self.strays: list[tuple[int, int]] = []
        # Whether any key in memory may tell when it was seen.
        self._has_times = silent_ms is not None
        self._hot: OrderedDict[bytes, CachedKey] = OrderedDict()
        # Those in memory that the store has no row of.
        self._unstored: set[bytes] = set()
        # Those whose rows differ from the store's, and those among them that it has no row of, once what is on its way
        # is there.
        self._changed: set[bytes] = set()
        self._fresh: set[bytes] = set()
        self._swept: set[bytes] = set()
        self._weight = 0
        # How many were brought into memory since some were let go.
        self._came = 0
        self._saving = KeysSave()
        # Rows that a save which failed half way may have taken from the store already.
        self._going: set[bytes] = set()
        self._sweeping: Iterator[Sequence[tuple[bytes, bytes]]] = iter(())
        self._stand = TableVersion(0, 0, 0)

    @property
    def is_crowded(self) -> bool:
        """Whether more models are in memory than there should be, and only a save makes room."""
        return len(self._hot) > self._hot_max and self._is_unsaved(next(iter(self._hot)))

    @property
    def is_full(self) -> bool:
        """Whether so many are in memory that the stream should wait until a save makes room."""
        return len(self._hot) > _FULL * self._hot_max and self.is_crowded

    @property
    def is_heavy(self) -> bool:
        """Whether to write down and save what has changed would hold up the stream."""
        return self._weight > _HEAVY_BYTES

    @property
    def hot(self) -> int:
        """How many models are in memory."""
        return len(self._hot)

    def __len__(self) -> int:
        """Return the number of keys, in memory or not, which is that of the table's rows once all is saved."""
        saving = self._saving
        return self._stand.rows + len(saving.fresh) - len(saving.swept) + len(self._fresh) - len(self._swept)

    def warm(self, keys: Iterable[bytes]) -> None:
        """Bring keys into memory, in one round trip or none. Raises what the store raises, and TableDamaged."""
        cold = list(filterfalse(self._hot.__contains__, dict.fromkeys(keys)))
        for key in (self._swept | self._saving.swept).intersection(cold):
            # It is forgotten, whether a save that failed half way, or is under way, has taken its row already or not.
            self._hot[key] = CachedKey()
            cold.remove(key)
        if not cold:
            return
        self._came += len(cold)
        stand = self._stand._replace(rows=self._stand.rows - len(self._going))
        rows = [None] * len(cold) if self._has_all else self._fetch(cold, stand)
        for key, packed in zip(cold, rows, strict=True):
            if packed is None:
                self._hot[key] = CachedKey()
                self._unstored.add(key)
                continue
            row = self._row(key, packed)
            self._hot[key] = CachedKey(row.seen_ms, b"" if self._bank.atomic else row.model)
            self._has_times = self._has_times or row.seen_ms >= 0

    def meet(self, key: bytes, at_ms: int | None, logged_ms: int) -> int:
        """See a key at an event time, None where it is not told; one that was silent for too long is known no more.

        Returns how far ahead of the stream's the time is where it is not believed, else 0.
        """
        ahead_ms = 0
        if self._silent_ms is not None:
            at_ms = logged_ms if at_ms is None else at_ms
            ahead_ms = 0 if self._clock.tick(at_ms, logged_ms) else at_ms - self._clock.now_ms
        self._meet(key, self._clock.now_ms)
        return ahead_ms

    def _meet(self, key: bytes, now_ms: int) -> None:
        hot = self._see(key, now_ms)
        if self._silent_ms is not None:
            hot.seen_ms = now_ms
            self._change({key})
        self._bear(key, hot)

    def predict(self, key: bytes | None, features: dict[str, Any]) -> Answer:
        """Answer as the key's model does."""
        return self._bank.predict(key or b"", features)

    def learn(self, key: bytes | None, features: dict[str, Any], label: Any) -> None:
        """Teach the key's model, and that of all keys."""
        key = key or b""
        hot = self._see(key, self._clock.now_ms)
        if self._silent_ms is not None:
            # A label counts as being seen: a key that was swept meanwhile is born by it as well.
            hot.seen_ms = self._clock.now_ms
        self._bear(key, hot)
        self._change({key})
        if self._prior is not None:
            self._prior.learn(_PRIOR, features.copy(), label)
        self._bank.learn(key, features, label)

    def take(
        self, met: Sequence[bytes], times: tuple[Any, Any], keys: Sequence[bytes], columns: Columns, labels: Any
    ) -> Answers | None:
        """Do for many records what `meet`, `predict` and `learn` do for one after the other, if there is `compiled`.

        `met` are the keys of all that are met, and `times` (int64) those of their events, below zero where they are not
        told, and of the log; `keys`, `columns` and `labels` (float64, NaN for none) are of the records among them that
        are answered. Returns None, with nothing changed, where the order of records of different keys matters, or a key
        has too many features. Raises as `warm` does.
        """
        assert self.compiled is not None
        clock, nows = self._clock, list[int]()
        self.strays = []
        if self._silent_ms is not None and met:
            clock = clock.fork()
            nows, self.strays = clock.tick_all(*(array.tolist() for array in times))
            if max(nows) - min(nows) > self._silent_ms:
                # A key may be forgotten between two of these records.
                return None
        # Before anything is laid out: what comes may bring columns, or be a model that can't be taken with others.
        # Whoever has a model is in memory: of the others alone that is asked.
        self.warm(self.compiled.strangers(met))
        if not self.compiled.admit(keys, columns, labels):
            return None
        self._clock = clock
        if self._silent_ms is None:
            if 2 * len(self._hot) > self._hot_max:
                # Who goes first matters only where there may soon be too many.
                deque(map(self._hot.move_to_end, dict.fromkeys(met)), maxlen=0)
        else:
            for key, now_ms in zip(met, nows, strict=True):
                self._meet(key, now_ms)
        answers = self.compiled.run(keys, columns, labels)
        taught = (answers.fault == 0) & (labels == labels)  # noqa: PLR0124 not NaN
        self._change(set(keys) if taught.all() else set(compress(keys, taught.tolist())))
        return answers

    def keep(self, key: bytes | None, features: dict[str, Any], label: Any, *, predicted: bool = True) -> None:
        """Note a record that went well, where it may have to be gone through again."""
        if self._bank.atomic:
            return
        step = UndoStep(features, label, predicted)
        self._hot[key or b""].note(step)
        # Some models draw what they need when they predict.
        self._change({key or b""})
        if self._prior is not None and label is not None:
            self._prior_hot.note(step)

    def undo(self, key: bytes | None) -> None:
        """Put a key's model, and that of all keys, back to where they stood after the last record that was kept."""
        key = key or b""
        # A key that was never met has no model yet that could have been harmed.
        if self._bank.atomic or key not in self._hot:
            return
        self._hot[key].go_back(self._bank, key)
        if self._prior is not None:
            self._prior_hot.go_back(self._prior, _PRIOR)

    def trim(self) -> None:
        """Let go of the models that were not used for longest, as far as they are saved; of few more than have come."""
        most, self._came = _TRIM_MIN + 2 * self._came, 0
        for _ in range(min(most, len(self._hot) - self._hot_max)):
            key = next(iter(self._hot))
            if self._is_unsaved(key):
                return
            del self._hot[key]
            self._unstored.discard(key)
            self._bank.drop(key)

    def checkpoint(self) -> bytes:
        """Return the time of the stream, and the model of all keys: the others are rows."""
        has_prior = self._prior is not None and _PRIOR in self._prior
        prior = self._prior.dump(_PRIOR) if has_prior and self._prior else b""
        return msgspec.msgpack.encode(KeyringState(self._clock.times(), prior))

    def restore(self, model: bytes) -> None:
        """Become what a snapshot held. Raises ModelError when the bytes are none of this kind."""
        try:
            ring = msgspec.msgpack.decode(model, type=KeyringState)
        except UNREADABLE as error:
            raise ModelError(
                f"the snapshot is of no models by key: {error}", hint="put model.scope back, or use another `name`"
            ) from error
        self._clock.resume(ring.times)
        if self._prior is not None and ring.prior:
            self._prior.load(_PRIOR, ring.prior)
            self._prior_hot = CachedKey(base=ring.prior)

    def resume(self, stand: TableVersion) -> None:
        """Note whose the shard is, and how many rows the store has at which version."""
        self._stand = stand

    def begin_save(self) -> None:
        """Take what differs from the store as what is to be saved; what changes from now on is the next save's.

        Raises as `scan` does, and TableDamaged.
        """
        self._sweep()
        self._going |= self._swept
        journals = {} if self._bank.atomic else {key: self._hot[key].journal for key in self._changed}
        # A key that went through nothing since its base is its base.
        moments = {key: (journal, len(journal)) for key, journal in journals.items() if journal is not None}
        self._saving = KeysSave(self._changed, self._fresh, self._swept, moments)
        self._changed, self._fresh, self._swept, self._weight = set(), set(), set(), 0

    def changes(self) -> dict[bytes, bytes | None]:
        """Return the rows of what is to be saved as they stand, None for one that is to go.

        Where it is not at once, a fork remembers how they stood.
        """
        changed = self._saving.changed
        rows: dict[bytes, bytes | None] = dict.fromkeys(self._saving.swept)
        modelled = [key for key in changed if key in self._bank]
        models = dict(zip(modelled, self._bank.dump_all(modelled), strict=True))
        for key in changed:
            rows[key] = msgspec.msgpack.encode(KeyRow(self._hot[key].seen_ms, models.get(key, b"")))
        return rows

    def packed(self, seal: RowSeal) -> tuple[PackedRows, dict[bytes, bytes]]:
        """Return what `changes` does, sealed and ready to be sent, and what `saved` needs of it."""
        if not isinstance(self._bank, ArrayBank):
            rows = self.changes()
            return pack(rows, seal), self.serves_undo(rows)
        packer, keys = RowPacker(seal), list(self._saving.changed)
        for key in self._saving.swept:
            packer.add_row(key, None)
        seen_ms = [self._hot[key].seen_ms for key in keys] if self._has_times else [-1] * len(keys)
        for key in self._bank.pack(packer, keys, seen_ms):
            packer.add_row(key, msgspec.msgpack.encode(KeyRow(self._hot[key].seen_ms, b"")))
        return packer.packed(), {}

    def serves_undo(self, rows: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
        """Return what `saved` needs of the rows that `changes` gave: the models from which the next undo starts."""
        if self._bank.atomic:
            return {}
        return {key: read_row(key, row).model for key, row in rows.items() if row is not None}

    def saved(self, models: Mapping[bytes, bytes], version: int) -> None:
        """Note that the store has what was to be saved, at a version. `models` are those of `serves_undo`."""
        saving = self._saving
        rows = self._stand.rows + len(saving.fresh) - len(saving.swept)
        self._stand = self._stand._replace(version=version, rows=rows)
        # Of those that were brought into memory meanwhile the rows have gone.
        self._unstored -= saving.fresh
        self._unstored |= saving.swept & self._hot.keys()
        for key, (journal, steps) in saving.journals.items():
            hot = self._hot[key]
            # One that was rebuilt meanwhile goes on from there.
            if hot.journal is journal:
                hot.base, hot.journal = models[key], journal[steps:] or None
        self._saving = KeysSave()
        self._going.clear()
        if self._prior is not None and _PRIOR in self._prior and not self._bank.atomic:
            self._prior_hot = CachedKey(base=self._prior.dump(_PRIOR))
        self.trim()

    def not_saved(self) -> None:
        """Note that what was to be saved is not, or only in part: the next save brings it again."""
        saving, self._saving = self._saving, KeysSave()
        # By the books the store stands as before: what was to go is there still, what was new is not.
        self._fresh -= saving.swept
        self._fresh |= saving.fresh
        self._swept |= saving.swept - self._changed
        again = saving.changed - self._changed
        self._changed |= again
        self._weight += self._weigh(again)

    @property
    def _has_all(self) -> bool:
        """Whether all rows that the store has, by what was last heard of a save, are of keys in memory."""
        return len(self._hot) - len(self._unstored) == self._stand.rows

    def _is_unsaved(self, key: bytes) -> bool:
        return key in self._changed or key in self._saving.changed

    def _see(self, key: bytes, now_ms: int) -> CachedKey:
        """Return a key in memory, as of now: used last, and without what silence has made it forget."""
        if key not in self._hot:
            self.warm([key])
        self._hot.move_to_end(key)
        hot = self._hot[key]
        if self._silent_ms is None:
            return hot
        if 0 <= hot.seen_ms < now_ms - self._silent_ms:
            self._bank.drop(key)
            hot.base, hot.journal = b"", None
        return hot

    def _bear(self, key: bytes, hot: CachedKey) -> None:
        """Make the model of a key that has none, of that of all keys, or as the factory does where it must be kept."""
        if key in self._bank:
            return
        prior = b"" if self._prior is None or _PRIOR not in self._prior else self._prior.dump(_PRIOR)
        state = prior or self._bank.born
        if state:
            self._bank.load(key, state)
            hot.base, hot.journal = b"" if self._bank.atomic else state, None
            self._change({key})

    def _change(self, keys: set[bytes]) -> None:
        """Note that the rows of keys in memory differ from the store's."""
        # `keys -= changed` would go through all that has changed, not through the few keys.
        keys = keys.difference(self._changed)
        if not keys:
            return
        self._changed |= keys
        self._swept -= keys
        self._weight += self._weigh(keys)
        self._fresh |= (keys & self._unstored) - self._saving.fresh
        self._fresh |= keys & self._saving.swept

    def _weigh(self, keys: set[bytes]) -> int:
        if self._bank.atomic:
            return _ROW_BYTES * len(keys)
        return sum(_OBJECT_BYTES + len(self._hot[key].base) for key in keys)

    def _sweep(self) -> None:
        """Look at a page of the rows in the store, and let those go whose keys were silent for too long."""
        if self._silent_ms is None or not self._stand.rows:
            return
        page = next(self._sweeping, None)
        if page is None:
            self._sweeping = self._scan()
            page = next(self._sweeping, ())
        for key, packed in page:
            # One that was never seen, because silence did not count then, is not silent for any time.
            if key not in self._hot and 0 <= read_row(key, packed).seen_ms < self._clock.now_ms - self._silent_ms:
                self._swept.add(key)

    def _row(self, key: bytes, packed: bytes) -> KeyRow:
        """Read a row and take its model on. Raises TableDamaged for one that is none."""
        row = read_row(key, packed)
        if row.model:
            try:
                self._bank.load(key, row.model)
            except ModelError as error:
                raise TableDamaged(f"the row of key {key!r} can't be read: {error}") from error
        return row


def read_row(key: bytes, packed: bytes) -> KeyRow:
    """Read a key's row. Raises TableDamaged for one that is none."""
    try:
        return msgspec.msgpack.decode(packed, type=KeyRow)
    except UNREADABLE as error:
        raise TableDamaged(f"the row of key {key!r} can't be read: {error}") from error
