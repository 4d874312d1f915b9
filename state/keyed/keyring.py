"""A model for every key: those that were used last in memory, all of them in the store.

The models of a batch's keys are fetched in one round trip before the batch is learned. A snapshot writes the keys that
have changed since the last; the stream may go on meanwhile. A new key gets the model that the factory makes, or a copy
of the model of all keys. A key that was silent for too long, by the time of the stream, begins anew when it comes back.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress, filterfalse
from typing import Any

import msgspec

from headrace.state.event_time import EventClock, Times
from headrace.state.keyed.bank import Bank
from headrace.state.keyed.cached_key import CachedKey, KeysSave
from headrace.state.keyed.key_row import KeyRow, read_row
from headrace.state.models.columns import Answers, Columns
from headrace.state.models.learner import ModelError
from headrace.state.models.model import Answer, Model
from headrace.state.models.undoable_model import UndoStep
from headrace.state.row_packing import PackedRows, RowPacker, TableDamaged, TableVersion
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


class KeyringState(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot holds of all keys: the stream's time, and the model of all keys, if there is one."""

    times: Times
    prior: bytes


class Keyring(Model):
    """The models of one partition, one for each key, in a `bank`.

    `hot_max` bounds those in memory; what has changed stays until it is saved, so there may be more until then.
    `silent_ms` is how long a key may be silent, None for ever. With `prior`, a bank of its own for the model of all
    keys, a new key begins as that model stands.
    """

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
        # With a prior, each record that is learned changes what the next new key begins with.
        self.can = msgspec.structs.replace(bank.can, undo=True, batches=bank.can.batches and prior is None)
        self._bank = bank
        self._fetch = fetch
        self._scan = scan
        self._hot_max = hot_max
        self._silent_ms = silent_ms
        self._prior = prior
        self._prior_hot = CachedKey()
        # Where no silence ends anything, time need not pass.
        self._clock = EventClock(silent_ms or 0)
        self._ahead: list[tuple[int, int]] = []
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
    def has_proba(self) -> bool:
        """Whether a predicted class comes with probabilities."""
        return self._bank.has_proba

    @property
    def classes(self) -> Sequence[Any]:
        """The classes that multiclass models have learned."""
        return self._bank.classes

    @property
    def ahead(self) -> Sequence[tuple[int, int]]:
        """The records of the last batch whose event time was not believed: their places, and how far ahead in ms."""
        return self._ahead

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

    def fetch(self, keys: Iterable[bytes]) -> None:
        """Bring keys into memory, in one round trip or none. Raises StoreAway, StoreFenced, TableDamaged."""
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
            self._hot[key] = CachedKey(row.seen_ms, b"" if self._bank.can.undo else row.model)
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

    def label(self, raw: Any) -> Any:
        """Return the label as the models take it. Raises LabelError."""
        return self._bank.label(raw)

    def label_number(self, label: Any) -> float:
        """Return the number that stands for a label in the next batch."""
        return self._bank.label_number(label)

    def fault(self, code: int, features: dict[str, Any]) -> Exception:
        """Return the exception that goes with a fault in the answers of a batch."""
        return self._bank.fault(code, features)

    def predict(self, features: dict[str, Any], key: bytes = b"") -> Answer:
        """Answer as the key's model does."""
        return self._bank.predict(features, key)

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:
        """Teach the key's model, and that of all keys."""
        hot = self._see(key, self._clock.now_ms)
        if self._silent_ms is not None:
            # A label counts as being seen: a key that was swept meanwhile is born by it as well.
            hot.seen_ms = self._clock.now_ms
        self._bear(key, hot)
        self._change({key})
        if self._prior is not None:
            self._prior.learn(features.copy(), label, _PRIOR)
        self._bank.learn(features, label, key)

    def learn_batch(
        self,
        columns: Columns,
        labels: Any,
        *,
        keys: Sequence[bytes] = (),
        answered: Any = None,
        times: tuple[Any, Any] | None = None,
        silent: bool = False,  # noqa: ARG002 every answer is written down
    ) -> Answers | None:
        """Do for many records what `meet`, `predict` and `learn` do for one after the other.

        Returns None, with nothing changed, where the order of records of different keys matters, or a key has too many
        features. Raises as `fetch` does.
        """
        clock, nows = self._clock, list[int]()
        self._ahead = []
        if self._silent_ms is not None and keys:
            assert times is not None
            clock = clock.fork()
            nows, self._ahead = clock.tick_all(*(array.tolist() for array in times))
            if max(nows) - min(nows) > self._silent_ms:
                # A key may be forgotten between two of these records.
                return None
        # Before anything is laid out: what comes may bring columns, or be a model that can't be taken with others. Keys
        # that have a model in the bank are in memory.
        self.fetch(self._bank.strangers(keys))
        named = keys if answered is None else [keys[place] for place in answered.tolist()]
        if not self._bank.admit(named, columns, labels):
            return None
        self._clock = clock
        if self._silent_ms is None:
            if 2 * len(self._hot) > self._hot_max:
                # Which key goes first matters only where there may soon be too many.
                deque(map(self._hot.move_to_end, dict.fromkeys(keys)), maxlen=0)
        else:
            for key, now_ms in zip(keys, nows, strict=True):
                self._meet(key, now_ms)
        answers = self._bank.learn_batch(columns, labels, keys=named)
        assert answers is not None
        taught = (answers.fault == 0) & (labels == labels)  # noqa: PLR0124 not NaN
        self._change(set(named) if taught.all() else set(compress(named, taught.tolist())))
        return answers

    def to_river(self, key: bytes = b"") -> Any:
        """Return a River model that goes on as that of a key in memory. Raises KeyError."""
        return self._bank.to_river(key)

    def keep(self, features: dict[str, Any], label: Any, key: bytes = b"", *, predicted: bool = True) -> None:
        """Note a record that went well, where it may have to be gone through again."""
        if self._bank.can.undo:
            return
        step = UndoStep(features, label, predicted)
        self._hot[key].note(step)
        # Some models draw what they need when they predict.
        self._change({key})
        if self._prior is not None and label is not None:
            self._prior_hot.note(step)

    def undo(self, key: bytes = b"") -> None:
        """Put a key's model, and that of all keys, back to where they stood after the last record that was kept."""
        # A key that was never met has no model yet that could have been harmed.
        if self._bank.can.undo or key not in self._hot:
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

    def dump(self, key: bytes = b"") -> bytes:  # noqa: ARG002 the keys' models are rows
        """Return the time of the stream, and the model of all keys: the others are rows."""
        has_prior = self._prior is not None and _PRIOR in self._prior
        prior = self._prior.dump(_PRIOR) if has_prior and self._prior else b""
        return msgspec.msgpack.encode(KeyringState(self._clock.times(), prior))

    def load(self, state: bytes, key: bytes = b"") -> None:  # noqa: ARG002 the keys' models are rows
        """Become what `dump` gave these bytes for. Raises ModelError when the bytes are none of this kind."""
        try:
            ring = msgspec.msgpack.decode(state, type=KeyringState)
        except UNREADABLE as error:
            raise ModelError(
                f"the snapshot is of no models by key: {error}", hint="put model.scope back, or use another `name`"
            ) from error
        self._clock.resume(ring.times)
        if self._prior is not None and ring.prior:
            self._prior.load(ring.prior, _PRIOR)
            self._prior_hot = CachedKey(base=ring.prior)

    def tables(self) -> Mapping[str, int]:
        """Return the number of rows that the table of keys has once all is saved."""
        return {TABLE: len(self)}

    def resume(self, stored: TableVersion) -> None:
        """Note whose the shard is, and how many rows the store has at which version."""
        self._stand = stored

    def begin_save(self) -> None:
        """Take what differs from the store as what is to be saved; what changes from now on is the next save's.

        Raises as `scan` does, and TableDamaged.
        """
        self._sweep()
        self._going |= self._swept
        journals = {} if self._bank.can.undo else {key: self._hot[key].journal for key in self._changed}
        # A key that went through nothing since its base is its base.
        moments = {key: (journal, len(journal)) for key, journal in journals.items() if journal is not None}
        self._saving = KeysSave(self._changed, self._fresh, self._swept, moments)
        self._changed, self._fresh, self._swept, self._weight = set(), set(), set(), 0

    def packed(self, seal: Callable[[str], RowSeal]) -> tuple[dict[str, PackedRows], dict[bytes, bytes]]:
        """Return the rows of what is to be saved as they stand, and the models from which the next undo starts.

        Where that is not at once, a fork remembers how they stood.
        """
        packer, keys = RowPacker(seal(TABLE)), list(self._saving.changed)
        for key in self._saving.swept:
            packer.add_row(key, None)
        seen_ms = [self._hot[key].seen_ms for key in keys] if self._has_times else [-1] * len(keys)
        rest = self._bank.pack(packer, keys, seen_ms)
        known = [key for key in rest if key in self._bank]
        models = dict(zip(known, self._bank.dump_all(known), strict=True))
        for key in rest:
            packer.add_row(key, msgspec.msgpack.encode(KeyRow(self._hot[key].seen_ms, models.get(key, b""))))
        return {TABLE: packer.packed()}, {} if self._bank.can.undo else models

    def saved(self, models: Mapping[bytes, bytes], version: int) -> None:
        """Note that the store has what was to be saved, at a version. `models` are those of `packed`."""
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
                hot.base, hot.journal = models.get(key, b""), journal[steps:] or None
        self._saving = KeysSave()
        self._going.clear()
        if self._prior is not None and _PRIOR in self._prior and not self._bank.can.undo:
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
            self.fetch([key])
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
            self._bank.load(state, key)
            hot.base, hot.journal = b"" if self._bank.can.undo else state, None
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
        if self._bank.can.undo:
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
                self._bank.load(row.model, key)
            except ModelError as error:
                raise TableDamaged(f"the row of key {key!r} can't be read: {error}") from error
        return row
