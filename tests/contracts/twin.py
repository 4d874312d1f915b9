"""Twins: a River model that learns record by record, and a compiled one that must answer as it does."""

import copy
import functools
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flood import Record, flood, torrent
from words import Words
from zoo import ZOO

from headrace.state.compiled.compiled_learner import CompiledLearner
from headrace.state.compiled.compiler import compile_model
from headrace.state.models.columns import Answers
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Anomaly, Answer
from headrace.state.models.task import task_of

SOAK = bool(os.environ.get("HEADRACE_SOAK"))
COUNT = 10_000 if SOAK else 200
"""Records that each model is fed."""
TOLERANCE = 1e-10
"""How far apart, relative to their size, two answers may be."""
_CHECKPOINT = 32
Said = Answer | Exception


class River:
    """River as it is; a record on which it raises is refused, and the model put back to where it was before."""

    def __init__(self, model: Any) -> None:
        self.learner = RiverLearner(model)
        self._keep()

    def take(self, features: dict[str, Any], label: Any) -> Said:
        """Predict, then learn where there is a label; return the answer or what was raised."""
        # What numpy warns of is what River answers.
        with np.errstate(all="ignore"):
            try:
                said: Said = self.learner.predict(dict(features))
            except Exception as error:  # noqa: BLE001 whatever River raises
                return error
            if label is None:
                return said
            try:
                self.learner.learn(dict(features), label)
            except Exception as error:  # noqa: BLE001
                self._restore()
                return error
        self._since.append((features, label))
        if len(self._since) == _CHECKPOINT:
            self._keep()
        return said

    def _keep(self) -> None:
        self._kept = copy.deepcopy(self.learner.model)
        self._since: list[Record] = []

    def _restore(self) -> None:
        self.learner.adopt(self._kept)
        for features, label in self._since:
            self.learner.learn(dict(features), label)
        self._keep()


@dataclass(frozen=True)
class Truth:
    """What River said to each record, and the model when it had seen half of them."""

    records: list[Record]
    said: list[Said]
    half: Any


@functools.cache
def food(name: str, *, extreme: bool = False) -> list[Record]:
    """Return the records that a model of the zoo is fed; where numbers are extreme they are fewer."""
    animal = ZOO[name]
    task = task_of(animal.build())
    if not extreme:
        return flood(animal.food, task, COUNT, classes=animal.classes)
    seed = random.Random(name).randrange(9)
    return torrent(animal.food, task, 300 if SOAK else 60, classes=animal.classes, seed=seed)


@functools.cache
def truth(name: str, *, extreme: bool = False) -> Truth:
    """Feed a new model of the zoo to River, in a flood or in a torrent of extreme numbers."""
    records = food(name, extreme=extreme)
    river, said, half = River(ZOO[name].build()), [], None
    for at, (features, label) in enumerate(records):
        if at == len(records) // 2:
            half = copy.deepcopy(river.learner.model)
        said.append(river.take(features, label))
    return Truth(records, said, half)


@functools.cache
def compilable(name: str) -> bool:
    return compile_model(ZOO[name].build()) is not None


def compiled(name: str) -> CompiledLearner:
    """Compile a new model of the zoo."""
    machine = compile_model(ZOO[name].build())
    assert machine is not None
    return machine


def labels(machine: CompiledLearner, records: Sequence[Record]) -> Any:
    """Write labels down as `run` takes them."""
    numbers = []
    for _, raw in records:
        if raw is None:
            numbers.append(np.nan)
        elif machine.task == "multiclass":
            numbers.append(float(machine.label_number(machine.label(raw))))
        else:
            numbers.append(float(machine.label(raw)))
    return np.array(numbers, float)


def batches(records: Sequence[Record], *, seed: int, longest: int = 500) -> Iterator[Sequence[Record]]:
    """Cut records into batches, from one record to so many."""
    draw, at = random.Random(seed), 0
    while at < len(records):
        size = draw.choice([1, 2, draw.randint(1, longest)])
        yield records[at : at + size]
        at += size


def feed(machine: CompiledLearner, records: Sequence[Record], words: Words | None = None) -> list[Said]:
    """Run one batch, and return what was said to each record."""
    answers = machine.learn_batch((words or Words()).columns(records), labels(machine, records))
    return told(machine, answers, records)


def feed_all(
    machine: CompiledLearner, records: Sequence[Record], *, seed: int = 0, words: Words | None = None
) -> list[Said]:
    """Run records in batches of random sizes."""
    words = words or Words()
    return [said for batch in batches(records, seed=seed) for said in feed(machine, batch, words)]


def told(machine: CompiledLearner, answers: Answers, records: Sequence[Record]) -> list[Said]:
    """Read answers as the same values that `predict` returns."""
    count = len(records)
    assert [len(answers.value), len(answers.chosen), len(answers.fault)] == [count] * 3
    return [
        machine.fault(int(answers.fault[at]), features) if answers.fault[at] else _answer(machine, answers, at)
        for at, (features, _) in enumerate(records)
    ]


def _answer(machine: CompiledLearner, answers: Answers, at: int) -> Answer:
    value = float(answers.value[at])
    if machine.task == "regression":
        return value, None
    if machine.task == "binary":
        return bool(answers.chosen[at]), {False: 1.0 - value, True: value} if machine.has_proba else None
    if machine.task == "anomaly":
        chosen = int(answers.chosen[at])
        return Anomaly(None if chosen < 0 else bool(chosen), value), None
    known = int(answers.known[at])
    assert known <= len(machine.classes)
    assert int(value) == value < known or known == 0
    chosen = machine.classes[int(value)] if value >= 0.0 else None
    proba = dict(zip(machine.classes, answers.proba[at, :known].tolist(), strict=False))
    return chosen, proba if machine.has_proba else None


def one_by_one(machine: CompiledLearner, records: Iterable[Record]) -> list[Said]:
    """Let a machine predict and learn record by record, as the engine does with any learner."""
    said: list[Said] = []
    for features, raw in records:
        try:
            answer: Said = machine.predict(dict(features))
            if raw is not None:
                machine.learn(dict(features), machine.label(raw))
        except Exception as error:  # noqa: BLE001 it raises what River does
            answer = error
        said.append(answer)
    return said


@dataclass
class Census:
    """How near a machine's answers are to River's."""

    numbers: int = 0
    same: int = 0
    gap: float = 0.0
    faults: int = 0
    differ: list[str] = field(default_factory=list)

    def count(self, ours: Sequence[Said], theirs: Sequence[Said], *, first: int = 0) -> None:
        """Compare two series of answers; `differ` says what is not the same."""
        for at, (our, their) in enumerate(zip(ours, theirs, strict=True), first):
            self.faults += isinstance(their, Exception)
            if isinstance(our, Exception) or isinstance(their, Exception):
                if _kind(our) is not _kind(their):
                    self.differ.append(f"record {at}: {our!r}, River {their!r}")
            elif not self._alike(our, their):
                self.differ.append(f"record {at}: {our}, River {their}")

    def _alike(self, ours: Answer, theirs: Answer) -> bool:
        (value, proba), (wanted, expected) = ours, theirs
        if isinstance(wanted, Anomaly):
            return bool(value.verdict is wanted.verdict and self._near(value.score, wanted.score or 0.0))
        if isinstance(wanted, bool | str | None) or expected is not None:
            # Between classes that are as likely, the last bit decides, and the order in which they were met.
            near = value == wanted and (value is None) == (wanted is None)
        else:
            near = self._near(value, float(wanted))
        if (proba is None) != (expected is None):
            return False
        if proba is None or expected is None:
            return near
        pairs = [self._near(proba[label], float(expected[label])) for label in proba.keys() & expected.keys()]
        return near and list(proba) == list(expected) and all(pairs)

    def _near(self, ours: float, theirs: float) -> bool:
        self.numbers += 1
        if ours == theirs or (ours != ours and theirs != theirs):  # noqa: PLR0124 NaN
            self.same += 1
            return True
        gap = abs(ours - theirs) / max(abs(ours), abs(theirs))
        self.gap = max(self.gap, gap) if gap == gap else float("inf")  # noqa: PLR0124
        return gap <= TOLERANCE


def _kind(said: Said) -> type:
    """Return of which kind a fault is: of text for a number numpy says now that it is of the wrong type, now value."""
    return ValueError if isinstance(said, TypeError) else type(said)


def exact(said: Sequence[Said]) -> list[str]:
    """Write answers down to the last bit, faults by their kind."""
    return [type(one).__name__ if isinstance(one, Exception) else repr(one) for one in said]
