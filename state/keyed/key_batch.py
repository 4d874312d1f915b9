"""A batch of records of many keys: one call of the machine for the prior, then one for the models of all keys.

Nothing has changed until both are done: only then does the arena take the models that they have stored.
"""

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from headrace.state.compiled.model_arena import ModelArena
from headrace.state.compiled.program import GROUP, MODEL, StoredModels
from headrace.state.compiled.program_runner import ProgramRunner
from headrace.state.keyed.bank import Births
from headrace.state.models.columns import Answers, Columns

_ATTEMPTS_MAX = 4
_NONE = -1


class KeyGroups:
    """The records of a batch by key: `order` has the records of key after key.

    `places` has the row of each key, or ~n for the n-th of the keys without a row (`rowless`).
    """

    def __init__(self, rows: Mapping[bytes, int], keys: Sequence[bytes]) -> None:
        places = np.fromiter(map(rows.get, keys, repeat(_NONE)), np.int64, len(keys))
        self.rowless: dict[bytes, int] = {}
        for at in np.flatnonzero(places == _NONE).tolist():
            places[at] = ~self.rowless.setdefault(keys[at], len(self.rowless))
        self.order = np.argsort(places, kind="stable")
        ordered = places[self.order]
        firsts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(keys)])
        self.places = ordered[firsts]
        self.groups = np.zeros(len(firsts), GROUP)
        self.groups["model"] = self.groups["into"] = np.arange(len(firsts))
        self.groups["last"] = np.append(firsts[1:], len(keys))[: len(firsts)]

    def by_record(self) -> Any:
        """Return the number of each record's group, int64."""
        found = np.empty(len(self.order), np.int64)
        found[self.order] = np.repeat(np.arange(len(self.groups)), np.diff(self.groups["last"], prepend=0))
        return found


class KeysLearned(NamedTuple):
    """The answers of a batch, and the rows of the keys, and of the prior, that have got one."""

    answers: Answers
    rows: dict[bytes, int]
    prior: int | None = None


class _PriorRun(NamedTuple):
    """The entries of the prior's versions, the version that each birth copies, and the faults of the records."""

    entries: Any
    versions: dict[bytes, int]
    fault: Any


class KeyBatch:
    """The records of `columns`, which learn their `labels` (float64, NaN for none). Row `newborn` has a new model."""

    def __init__(
        self, runner: ProgramRunner, arena: ModelArena, columns: Columns, labels: Any, *, newborn: int
    ) -> None:
        self._runner, self._arena = runner, arena
        self._columns, self._labels = columns, labels
        self._newborn = newborn
        self._ends = arena.ends

    def learn(self, groups: KeyGroups) -> KeysLearned:
        """Predict and learn, without a prior."""
        entries = self._arena.index(np.maximum(groups.places, self._newborn))
        # The models of keys without a row are copies of one that stays as it is.
        groups.groups["in_place"] = groups.places >= 0
        try:
            answers = self._run(groups, entries, self._labels)
            return KeysLearned(answers, self._commit(groups, entries))
        except BaseException:
            self._arena.ends = self._ends
            raise

    def learn_with_prior(self, groups: KeyGroups, births: Births, *, prior: int | None) -> KeysLearned | None:
        """Predict and learn, and teach the prior; return None, with nothing changed, to get the records one by one."""
        labelled = ~np.isnan(self._labels)
        if prior is None and len(labelled) > 1 and groups.rowless and labelled.any():
            # The first record that is learned changes the model of each key that has none.
            return None
        try:
            return self._learn_both(groups, () if prior is None else births, labelled, prior)
        except BaseException:
            self._arena.ends = self._ends
            raise

    def _learn_both(self, groups: KeyGroups, births: Births, labelled: Any, prior: int | None) -> KeysLearned | None:
        told = self._labels
        for _ in range(_ATTEMPTS_MAX):
            self._arena.ends = self._ends
            run = self._teach_prior(told, births, self._newborn if prior is None else prior)
            entries = self._arena.index(np.maximum(groups.places, self._newborn))
            for key, number in groups.rowless.items():
                if key in run.versions:
                    entries[np.searchsorted(groups.places, ~number)] = run.entries[run.versions[key]]
            entries["size"] = 0
            answers = self._run(groups, entries, np.where(run.fault == 0, self._labels, np.nan))
            odd = np.flatnonzero((answers.fault != 0) & (run.fault == 0) & labelled & ~np.isnan(told))
            if not len(odd):
                fault = np.where(run.fault == 0, answers.fault, run.fault)
                rows, row = self._commit_both(groups, entries, run, prior)
                return KeysLearned(answers._replace(fault=fault), rows, row)
            # The key's model raised, so the prior must not learn the record either: begin again.
            told = told.copy()
            told[odd[0]] = np.nan
        self._arena.ends = self._ends
        return None

    def _teach_prior(self, labels: Any, births: Births, row: int) -> _PriorRun:
        """Teach the prior the labelled records, and store a version of it for the births between them."""
        order = np.flatnonzero(~np.isnan(labels))
        cuts = np.searchsorted(order, [position for position, _ in births])
        lasts = np.unique(np.append(cuts, len(order)))
        lasts = lasts[lasts > 0]
        groups = np.zeros(len(lasts), GROUP)
        groups["model"], groups["last"] = np.arange(len(lasts)), lasts
        groups["into"] = groups["model"] + 1
        entries = np.zeros(len(lasts) + 1, MODEL)
        entries[:1] = self._arena.index(np.array([row]))
        fault = np.zeros(len(labels), np.int8)
        if len(order):
            models = StoredModels(groups, order, entries, self._arena.shapes, self._arena.numbers)
            answers, _ = self._runner.run(self._columns, labels, models, silent=True, space=self._arena)
            fault = answers.fault
        versions = np.searchsorted(lasts, cuts, side="right").tolist()
        return _PriorRun(entries, dict(zip((key for _, key in births), versions, strict=True)), fault)

    def _run(self, groups: KeyGroups, entries: Any, labels: Any) -> Answers:
        models = StoredModels(groups.groups, groups.order, entries, self._arena.shapes, self._arena.numbers)
        if not len(labels):
            models = models._replace(groups=np.zeros(1, GROUP), index=self._arena.index(np.array([self._newborn])))
        answers, _ = self._runner.run(self._columns, labels, models, space=self._arena)
        return answers if answers.proba is None else self._in_own_order(answers, groups, entries)

    def _in_own_order(self, answers: Answers, groups: KeyGroups, entries: Any) -> Answers:
        """Add the classes that each record's model knew, in its order, and answer with the numbers of classes."""
        shapes = entries["shape"][groups.by_record()]
        order = np.zeros((len(shapes), int(answers.known.max(initial=0))), np.int64)
        for place in range(order.shape[1]):
            knows = answers.known > place
            # A shape begins with the number of classes; then come their numbers.
            order[knows, place] = self._arena.shapes[shapes[knows] + 1 + place]
        # A tree answers with its classes in their sorted order.
        proba = answers.proba[:, : order.shape[1]]
        sorts = answers.order is not None
        columns = np.take_along_axis(order, answers.order[:, : order.shape[1]], 1) if sorts else order
        chosen = answers.value.astype(np.int64)
        some = chosen >= 0
        value = answers.value.copy()
        value[some] = order[some, chosen[some]]
        return answers._replace(value=value, proba=proba, order=columns)

    def _commit(self, groups: KeyGroups, entries: Any) -> dict[bytes, int]:
        learned = np.flatnonzero(entries["size"])
        rows, born = self._rows_for(groups, learned)
        self._arena.commit(rows, entries[learned], ends=self._ends)
        return born

    def _commit_both(
        self, groups: KeyGroups, entries: Any, run: _PriorRun, prior: int | None
    ) -> tuple[dict[bytes, int], int | None]:
        learned = np.flatnonzero(entries["size"])
        rows, born = self._rows_for(groups, learned)
        # A key that was born and has learned nothing has the prior's model itself.
        idle = [key for key in run.versions if key not in born]
        copies = self._arena.copied(run.entries[[run.versions[key] for key in idle]])
        idle_rows = self._arena.take(len(idle))
        born |= dict(zip(idle, idle_rows.tolist(), strict=True))
        newest = run.entries[-1:][run.entries["size"][-1:] > 0]
        if len(newest) and prior is None:
            prior = int(self._arena.take(1)[0])
        prior_rows = np.array([prior] if len(newest) else [], np.int64)
        self._arena.commit(
            np.concatenate((prior_rows, rows, idle_rows)),
            np.concatenate((newest, entries[learned], copies)),
            ends=self._ends,
        )
        return born, prior

    def _rows_for(self, groups: KeyGroups, learned: Any) -> tuple[Any, dict[bytes, int]]:
        """Return the rows of these groups; a key without a row gets one."""
        rows = groups.places[learned]
        rowless = np.flatnonzero(rows < 0)
        keys = list(groups.rowless)
        born = [keys[~place] for place in rows[rowless].tolist()]
        rows[rowless] = self._arena.take(len(born))
        return rows, dict(zip(born, rows[rowless].tolist(), strict=True))
