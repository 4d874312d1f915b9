"""A model for every key: the last used ones in memory, all of them in the store.

The models of a batch's keys are fetched in one round trip before the batch is learned. A snapshot writes the keys that
have changed since the last one; the stream may go on meanwhile. A new key gets a new model of the factory, or a copy of
the model of all keys (the prior). A key that was silent for too long, by stream time, gets a new model when it returns.
"""

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress, filterfalse
from typing import Any

import msgspec

from headrace.state.event_time import Times
from headrace.state.keyed.bank import Bank, Births
from headrace.state.keyed.cached_key import CachedKey, KeysSave
from headrace.state.keyed.key_row import FetchRows, KeyRow, ScanRows, read_row
from headrace.state.keyed.silence import Silence
from headrace.state.models.columns import Answers, Columns
from headrace.state.models.model import Answer, Model
from headrace.state.models.task import ModelError
from headrace.state.models.undoable_model import UndoStep
from headrace.state.row_packing import PackedRows, RowPacker, TableDamaged, TableVersion
from headrace.state.seal import UNREADABLE, RowSeal

TABLE = "keys"
"""The shard's table in the store: a row for each key."""

# Fixed cost of a row, as the number of model bytes that cost the same: about 15 us in arrays, 100 us as objects.
_ROW_BYTES, _OBJECT_BYTES = 400, 1_500
# To encode and save more than this takes longer than a few milliseconds.
_HEAVY_BYTES = 200_000
# To free this number of models takes a millisecond or two.
_TRIM_MIN = 1_000
# With this multiple of `hot_max` in memory, the stream waits for a save.
_FULL = 2


class KeyringState(msgspec.Struct, frozen=True, array_like=True):
    """The part of a keyring that a snapshot holds: the stream's time, and the model of all keys, if there is one."""

    times: Times
    prior: bytes


class Keyring(Model):
    """The models of one partition, one for each key, in a `bank`.

    `hot_max` is the number of models to keep in memory; changed ones stay until they are saved, so there may be more.
    A key that is silent for `silent_ms` is forgotten; None keeps it for ever. If the bank has a prior, a new key begins
    with a copy of that model.
    """

    def __init__(
        self,
        bank: Bank,
        *,
        fetch: FetchRows,
        scan: ScanRows,
        hot_max: int,
        silent_ms: int | None = None,
    ) -> None:
        self.task = bank.task
        self.codec = bank.codec
        self.spec = bank.spec
        self.can = msgspec.structs.replace(bank.can, undo=True)
        self._bank = bank
        self._fetch = fetch
        self._scan = scan
        self._hot_max = hot_max
        self._prior = bank.prior
        self._silence = Silence(silent_ms)
        self._ahead: Sequence[tuple[int, int]] = ()
        # Whether a key in memory may have a `seen_ms`.
        self._has_times = silent_ms is not None
        self._hot: OrderedDict[bytes, CachedKey] = OrderedDict()
        # The keys in memory without a row in the store.
        self._unstored: set[bytes] = set()
        # The keys whose rows the next save must write; those of them without a row after the present save; and the
        # keys whose rows the next save must delete.
        self._changed: set[bytes] = set()
        self._fresh: set[bytes] = set()
        self._swept: set[bytes] = set()
        self._weight = 0
        # The number of keys fetched since the last `trim`.
        self._came = 0
        self._saving = KeysSave()
        # Rows that a failed save may have deleted already.
        self._going: set[bytes] = set()
        self._sweeping: Iterator[Sequence[tuple[bytes, bytes]]] = iter(())
        self._stored = TableVersion(0, 0, 0)

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
        """The records of the last batch whose event time did not count: their index, and the distance in ms."""
        return self._ahead

    @property
    def is_crowded(self) -> bool:
        """Whether too many models are in memory, and only a save makes room."""
        return len(self._hot) > self._hot_max and self._is_unsaved(next(iter(self._hot)))

    @property
    def is_full(self) -> bool:
        """Whether the stream should wait until a save makes room."""
        return len(self._hot) > _FULL * self._hot_max and self.is_crowded

    @property
    def is_heavy(self) -> bool:
        """Whether to encode and save the changed models would hold up the stream."""
        return self._weight > _HEAVY_BYTES

    @property
    def hot(self) -> int:
        """The number of models in memory."""
        return len(self._hot)

    def __len__(self) -> int:
        """Return the number of keys, in memory or not; after a save the table has as many rows."""
        saving = self._saving
        return self._stored.rows + len(saving.fresh) - len(saving.swept) + len(self._fresh) - len(self._swept)

    def fetch(self, keys: Iterable[bytes]) -> None:
        """Bring keys into memory, in one round trip or none. Raises StoreAway, StoreFenced, TableDamaged."""
        cold = list(filterfalse(self._hot.__contains__, dict.fromkeys(keys)))
        for key in (self._swept | self._saving.swept).intersection(cold):
            # A forgotten key: a save is to delete its row, or has done so already.
            self._hot[key] = CachedKey()
            cold.remove(key)
        if not cold:
            return
        self._came += len(cold)
        stored = self._stored._replace(rows=self._stored.rows - len(self._going))
        rows = [None] * len(cold) if self._has_all else self._fetch(cold, stored)
        for key, packed in zip(cold, rows, strict=True):
            if packed is None:
                self._hot[key] = CachedKey()
                self._unstored.add(key)
                continue
            row = self._row(key, packed)
            self._hot[key] = CachedKey(row.seen_ms, b"" if self._bank.can.undo else row.model)
            self._has_times = self._has_times or row.seen_ms >= 0

    def meet(self, key: bytes, at_ms: int | None, logged_ms: int) -> int:
        """Note the event time of a key's record, None if it has none; forget the key if it was silent for too long.

        Returns 0, or the distance in ms of an event time that is too far ahead to count.
        """
        ahead_ms = self._silence.tick(at_ms, logged_ms)
        self.recall(key)
        return ahead_ms

    def recall(self, key: bytes) -> None:
        """Do as `meet` does for a record at the present time of the stream."""
        hot = self._use(key, self._silence.now_ms)
        if self._silence.counts:
            self._mark_changed({key})
        self._make_model(key, hot)

    def label(self, raw: Any) -> Any:
        """Return the label in the models' own form. Raises LabelError."""
        return self._bank.label(raw)

    def label_number(self, label: Any) -> float:
        """Return the number of a label for the next batch."""
        return self._bank.label_number(label)

    def answer(self, answers: Answers, at: int) -> Answer:
        """Return one answer of a batch in the form that `predict` returns."""
        return self._bank.answer(answers, at)

    def fault(self, code: int, features: dict[str, Any]) -> Exception:
        """Return the exception for a fault in the answers of a batch."""
        return self._bank.fault(code, features)

    def predict(self, features: dict[str, Any], key: bytes = b"", *, label: Any = None) -> Answer:
        """Predict with the key's model."""
        return self._bank.predict(features, key, label=label)

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:
        """Teach the key's model, and the prior, one record."""
        # A label counts as a record of its key; it may come after the key was forgotten.
        self._make_model(key, self._use(key, self._silence.now_ms))
        self._mark_changed({key})
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
        halts: bool = False,  # noqa: ARG002 batches with late labels come one by one
    ) -> Answers | None:
        """Do as `meet`, `predict` and `learn` do, for many records at once.

        Returns None, with nothing changed, if the order of records of different keys matters. Raises as `fetch` does.
        """
        passed = self._silence.passes(len(keys), times)
        if passed is None:
            return None
        self.fetch(self._bank.strangers(keys))
        self._use_all(keys, passed.nows)
        named = keys if answered is None else [keys[place] for place in answered.tolist()]
        births = self._births(keys, answered)
        answers = self._bank.learn_keys(columns, labels, named, births)
        if answers is None:
            return None
        self._silence.accept(passed)
        self._ahead = passed.ahead
        taught = (answers.fault == 0) & (labels == labels)  # noqa: PLR0124 not NaN
        self._mark_changed(set(named) if taught.all() else set(compress(named, taught.tolist())))
        self._mark_changed({key for _, key in births if key in self._bank})
        return answers

    def to_river(self, key: bytes = b"") -> Any:
        """Return a River model equal to that of a key in memory. Raises KeyError."""
        return self._bank.to_river(key)

    def keep(self, features: dict[str, Any], label: Any, key: bytes = b"", *, predicted: bool = True) -> None:
        """Note a record without an error, if an undo may have to repeat it."""
        if self._bank.can.undo:
            return
        step = UndoStep(features, label, predicted)
        self._hot[key].note(step)
        # A prediction changes some models, too.
        self._mark_changed({key})
        if self._prior is not None and label is not None:
            self._prior.keep(step)

    def undo(self, key: bytes = b"") -> None:
        """Return a key's model, and the prior, to the state after the last record that was kept."""
        # A key that was never met has no model.
        if self._bank.can.undo or key not in self._hot:
            return
        self._hot[key].undo(self._bank, key)
        if self._prior is not None:
            self._prior.undo()

    def trim(self) -> None:
        """Free the least recently used models, up to the first unsaved one; some more than were fetched at most."""
        trimmed_max, self._came = _TRIM_MIN + 2 * self._came, 0
        for _ in range(min(trimmed_max, len(self._hot) - self._hot_max)):
            key = next(iter(self._hot))
            if self._is_unsaved(key):
                return
            del self._hot[key]
            self._unstored.discard(key)
            self._bank.drop(key)

    def dump(self, key: bytes = b"") -> bytes:  # noqa: ARG002 the keys' models are rows
        """Return the stream's time and the prior; the keys' models are rows."""
        prior = b"" if self._prior is None else self._prior.dump()
        return msgspec.msgpack.encode(KeyringState(self._silence.times(), prior))

    def load(self, state: bytes, key: bytes = b"") -> None:  # noqa: ARG002 the keys' models are rows
        """Load the bytes of `dump`. Raises ModelError for bytes of another kind."""
        try:
            ring = msgspec.msgpack.decode(state, type=KeyringState)
        except UNREADABLE as error:
            raise ModelError(
                f"the snapshot is not of models by key: {error}", hint="put model.scope back, or use another `name`"
            ) from error
        self._silence.resume(ring.times)
        if self._prior is not None and ring.prior:
            self._prior.load(ring.prior)

    def tables(self) -> Mapping[str, int]:
        """Return the number of rows of the table of keys after a save."""
        return {TABLE: len(self)}

    def resume(self, stored: TableVersion) -> None:
        """Continue with the rows that the store has at a version, for an owner's epoch."""
        self._stored = stored

    def begin_save(self) -> None:
        """Begin to save all changed keys; later changes belong to the next save.

        Raises as `scan` does, and TableDamaged.
        """
        self._sweep()
        self._going |= self._swept
        journals = {} if self._bank.can.undo else {key: self._hot[key].journal for key in self._changed}
        # A key without a journal has not changed since its base.
        lengths = {key: (journal, len(journal)) for key, journal in journals.items() if journal is not None}
        self._saving = KeysSave(self._changed, self._fresh, self._swept, lengths)
        self._changed, self._fresh, self._swept, self._weight = set(), set(), set(), 0

    def packed(self, seal: Callable[[str], RowSeal]) -> tuple[dict[str, PackedRows], dict[bytes, bytes]]:
        """Return the rows to save, packed, and the models from which the next undo starts.

        If models may change before this is called, a forked process calls it.
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
        """Note that the save has succeeded, as a version; `models` are those of `packed`."""
        saving = self._saving
        rows = self._stored.rows + len(saving.fresh) - len(saving.swept)
        self._stored = self._stored._replace(version=version, rows=rows)
        # The save has deleted the rows of swept keys, also of those that came back into memory meanwhile.
        # A set that was large stays slow to look through, however few are left in it.
        self._unstored = self._unstored.difference(saving.fresh)
        self._unstored |= saving.swept & self._hot.keys()
        for key, (journal, steps) in saving.journals.items():
            hot = self._hot[key]
            # A model that an undo rebuilt meanwhile keeps its new base.
            if hot.journal is journal:
                hot.base, hot.journal = models.get(key, b""), journal[steps:] or None
        self._saving = KeysSave()
        self._going.clear()
        if self._prior is not None:
            self._prior.saved()
        self.trim()

    def not_saved(self) -> None:
        """Note that the save has failed, perhaps after some rows: the next save writes them again."""
        saving, self._saving = self._saving, KeysSave()
        # Count as if the store had not changed: swept keys still have rows, fresh keys have none.
        self._fresh -= saving.swept
        self._fresh |= saving.fresh
        self._swept |= saving.swept - self._changed
        unsaved = saving.changed - self._changed
        self._changed |= unsaved
        self._weight += self._weigh(unsaved)

    @property
    def _has_all(self) -> bool:
        """Whether the keys of all rows in the store, as of the last save, are in memory."""
        return len(self._hot) - len(self._unstored) == self._stored.rows

    def _is_unsaved(self, key: bytes) -> bool:
        return key in self._changed or key in self._saving.changed

    def _use(self, key: bytes, now_ms: int) -> CachedKey:
        """Return a key as the last used one, fetched if needed, and seen now; a key that was silent too long is new."""
        if key not in self._hot:
            self.fetch([key])
        self._hot.move_to_end(key)
        hot = self._hot[key]
        if self._silence.is_over(hot.seen_ms, now_ms):
            self._bank.drop(key)
            hot.base, hot.journal = b"", None
        if self._silence.counts:
            hot.seen_ms = now_ms
        return hot

    def _use_all(self, keys: Sequence[bytes], nows: Sequence[int]) -> None:
        """Do as `_use` does for the keys of a batch, which are in memory, at these times of the stream."""
        if not self._silence.counts:
            if 2 * len(self._hot) > self._hot_max:
                # The order of use matters only if there may soon be too many keys in memory.
                deque(map(self._hot.move_to_end, dict.fromkeys(keys)), maxlen=0)
            return
        for key, now_ms in zip(keys, nows, strict=True):
            self._use(key, now_ms)
        self._mark_changed(set(keys))

    def _births(self, keys: Sequence[bytes], answered: Any) -> Births:
        """Return when in a batch the prior gives a model to a key that has none: at the key's first record."""
        if self._prior is None:
            return ()
        rowless, places = set(self._bank.strangers(keys)), None if answered is None else answered.tolist()
        firsts = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True)) if rowless else {}
        found = sorted((firsts[key], key) for key in rowless)
        return found if places is None else [(bisect_left(places, place), key) for place, key in found]

    def _make_model(self, key: bytes, hot: CachedKey) -> None:
        """Give a key without a model a copy of the prior, or a new one, if the bank needs that."""
        state = None if key in self._bank else self._bank.bear(key)
        if state is not None:
            hot.base, hot.journal = state, None
            self._mark_changed({key})

    def _mark_changed(self, keys: set[bytes]) -> None:
        """Note that the rows of keys in memory differ from those in the store."""
        # `keys -= changed` would visit all changed keys instead of these few.
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
        """Read a page of the rows in the store, and mark those for deletion whose keys were silent for too long."""
        if not self._silence.counts or not self._stored.rows:
            return
        page = next(self._sweeping, None)
        if page is None:
            self._sweeping = self._scan()
            page = next(self._sweeping, ())
        for key, packed in page:
            # A row without a time was saved when no `silent_ms` was set; it is kept.
            if key not in self._hot and self._silence.is_over(read_row(key, packed).seen_ms):
                self._swept.add(key)

    def _row(self, key: bytes, packed: bytes) -> KeyRow:
        """Read a row and load its model. Raises TableDamaged for an invalid one."""
        row = read_row(key, packed)
        if row.model:
            try:
                self._bank.load(row.model, key)
            except ModelError as error:
                raise TableDamaged(f"the row of key {key!r} can't be read: {error}") from error
        return row
