"""The census: it runs each estimator of the installed River through the pipeline's engine, and records the result.

`make docs` writes the verdicts to docs/models.json, from which docs/models.md has its table; `test_census.py` compares
them. A transformer runs as a step before a model.
"""

import contextlib
import functools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from every import MORE, makers, records
from river import base, compose, feature_extraction, linear_model, preprocessing

from headrace.consumers.record import Decoder, Record
from headrace.pipeline.engine.engine import Engine
from headrace.state.compiled import compiler
from headrace.state.keyed.bank import RiverBank
from headrace.state.models import learner
from headrace.state.models.model import Unlabelled
from headrace.state.models.task import ModelError, last_step
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Shard
from headrace.state.shared import merge

FILE = Path(__file__).parents[2] / "docs" / "models.json"
COUNT, SAVED, UNDONE = 64, 40, 25
SEED = "census"
_TRUSTED = frozenset({"every", "census"})
_STEPS = (base.BaseTransformer, base.Transformer, base.SupervisedTransformer)


class Verdict(msgspec.Struct, frozen=True):
    """What came of one class of estimators: how it `runs` (compiled, river, no), and `why` where it does not."""

    name: str
    task: str
    runs: str
    by_key: bool
    shared: bool
    why: str = ""


def classes() -> dict[str, list[Callable[[], Any]]]:
    """Return what makes the estimators of each class, by the class's name with its package."""
    found: dict[str, list[Callable[[], Any]]] = {}
    for name, make in makers():
        package, _, cls = name.rpartition("[")[0].rpartition(".")
        if name in MORE:
            part = _proper(make())
            package, cls = type(part).__module__.split(".")[1], type(part).__name__
        if package != "base":
            found.setdefault(f"{package}.{cls}", []).append(make)
    return dict(sorted(found.items()))


def _proper(model: Any) -> Any:
    """Return the step of a pipeline for whose sake it was built: the first."""
    return next(iter(model.steps.values())) if isinstance(model, compose.Pipeline) and model.steps else model


def verdict(name: str, makes: list[Callable[[], Any]]) -> Verdict:
    """Run the estimators of a class; the verdict is that of the first that runs, else of the first."""
    found: Verdict | None = None
    for make in makes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = _verdict(name, make)
        if found is None or (found.runs == "no" and one.runs != "no"):
            found = one
    assert found is not None, name
    return found


def _verdict(name: str, make: Callable[[], Any]) -> Verdict:
    try:
        alone = make()
    except (TypeError, RuntimeError) as error:
        return Verdict(name, "", "no", by_key=False, shared=False, why=f"River can't build it here: {error}")
    if type(alone) is compose.Pipeline and not alone.steps:
        make, alone = _scaled, _scaled()
    is_step = isinstance(alone, _STEPS) and not isinstance(alone, base.Classifier | base.Regressor)
    build: Callable[[], Any] = functools.partial(_with_model, make) if is_step else make
    try:
        built = learner.build(build, trusted=_TRUSTED, seed=SEED)
    except ModelError as error:
        return Verdict(name, "", "no", by_key=False, shared=False, why=str(error))
    task = "step" if is_step else built.task
    rows = [*_rows(build())]
    why = _run(build, rows)
    if why:
        return Verdict(name, task, "no", by_key=False, shared=False, why=why)
    runs = "compiled" if compiler.draft(built.model) is not None else "river"
    return Verdict(name, task, runs, by_key=_runs_by_key(build, rows), shared=_is_shared(built.model))


def _scaled() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def _with_model(make: Callable[[], Any]) -> Any:
    step = make()
    return (
        step
        if isinstance(step, compose.Pipeline) and not isinstance(last_step(step), _STEPS)
        else step | (linear_model.LogisticRegression())
    )


def _rows(model: Any) -> Iterator[bytes]:
    """Yield records, as their topic has them, that a model can learn."""
    last = last_step(model)
    for number, row in enumerate(records(_fed(last, model), COUNT)):
        features, label = ({"user": row[0], "item": row[1]}, row[2]) if len(row) == 3 else row
        features = {**features} if isinstance(features, dict) else {"text": features}
        if any(type(step) is compose.Grouper for step in _steps(model)):
            features["shop"] = number % 3
        if base.tags.POSITIVE_INPUT in last._tags:
            features = {name: value if isinstance(value, str) else abs(value) for name, value in features.items()}
        if isinstance(last, base.SupervisedAnomalyDetector):
            label = float(number % 7)
        yield msgspec.json.encode({"id": f"{number}", "features": features, "label": label})


def _fed(last: Any, model: Any) -> Any:
    """Return the part of a model that decides which records `every.records` gives."""
    texts = [step for step in _steps(model) if isinstance(step, feature_extraction.BagOfWords)]
    return texts[0] if texts else last


def _steps(model: Any) -> list[Any]:
    return [*model.steps.values()] if isinstance(model, compose.Pipeline) else [model]


def _run(build: Callable[[], Any], rows: list[bytes]) -> str:
    """Learn the records in an undisturbed run, and in one that is saved, loaded and undone; say what is wrong."""
    whole, cut = Run(build), Run(build)
    for offset, value in enumerate(rows):
        whole.take(offset, value)
        if offset == SAVED:
            cut = cut.again()
        if offset == UNDONE:
            cut.undone(rows[0])
        cut.take(offset, value)
    if whole.refused:
        return whole.refused[0]
    if not rows or all(answer.get("prediction") is None and answer.get("score") is None for answer in whole.answers):
        return "it never answered"
    if whole.answers != cut.answers:
        return "after an undo and a load it answered something else"
    if not whole.shard.counts.learned:
        return "it learned nothing"
    return ""


class Run:
    """A shard with a new model, which takes one record after the other."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self.model = UndoableModel(learner.build(build, trusted=_TRUSTED, seed=SEED))
        self.shard = Shard(self.model, partition=0, start=0)
        self._engine = Engine(decoder=Decoder(), topic="t", name="census")
        self.answers: list[dict[str, Any]] = []
        self.refused: list[str] = []

    def take(self, offset: int, value: bytes) -> None:
        """Handle one record."""
        outputs = self._engine.run(self.shard, [Record(0, offset, 1_000 * offset, None, value, None)], now_ms=0)
        self.answers += [msgspec.json.decode(line) for line in outputs.predictions.values]
        self.refused += [dead_letter.refusal.message for dead_letter in outputs.dead_letters]

    def undone(self, value: bytes) -> None:
        """Predict and learn a record, and undo it, whatever the model raises."""
        event = Decoder().decode(Record(0, 0, 0, None, value, None))
        features: Any = event.features  # type: ignore[union-attr]
        label = self.model.label(event.label)  # type: ignore[union-attr]
        with contextlib.suppress(Exception):
            self.model.predict(dict(features), label=label)
            self.model.learn(dict(features), Unlabelled(0) if self.model.can.unlabelled else label)
        self.model.undo()

    def again(self) -> "Run":
        """Return a run of a new model that has loaded this one's bytes."""
        other = Run(self._build)
        other.model.load(self.model.dump())
        other.shard.advance(self.shard.offset)
        other.shard.counts, other.answers, other.refused = self.shard.counts, self.answers, self.refused
        return other


def _runs_by_key(build: Callable[[], Any], rows: list[bytes]) -> bool:
    first = learner.build(build, trusted=_TRUSTED, seed=SEED)
    bank, other = RiverBank(first), RiverBank(first)
    bank.bear(b"k")
    for value in rows[:10]:
        event: Any = Decoder().decode(Record(0, 0, 0, None, value, None))
        label = bank.label(event.label)
        bank.predict(dict(event.features), b"k", label=label)
        bank.learn(dict(event.features), Unlabelled(0) if bank.can.unlabelled else label, b"k")
    other.load(bank.dump(b"k"), b"k")
    answers = [repr(one.predict(dict(event.features), b"k", label=label)) for one in (bank, other)]
    return answers[0] == answers[1]


def _is_shared(model: Any) -> bool:
    try:
        merge.check(model)
    except ModelError:
        return False
    return True


def main() -> None:
    """Write the verdicts of all classes."""
    found = [msgspec.structs.asdict(verdict(name, makes)) for name, makes in classes().items()]
    FILE.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in found) + "\n]\n")


if __name__ == "__main__":
    main()
