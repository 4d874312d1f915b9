"""Measures from tallies: River's own values, also when the tallies of partitions are added up."""

import math
import random
from typing import Any

import msgspec
import pytest
from river import metrics

from headrace.state.measures import (
    CELLS_MAX,
    STEPS_MAX,
    Curve,
    Tally,
    fitting,
    key_of,
    merged,
    values,
)
from headrace.state.models.model import Task

_ANSWERS = {
    "binary": [True, False],
    "multiclass": ["a", "b", "c"],
    "clustering": [0, 1, 2, 3],
}
_CLASSES = [(task, name) for task in _ANSWERS for name in fitting(task, has_proba=False)]  # type: ignore[arg-type]


def _pairs(task: str, count: int = 300) -> list[tuple[Any, Any]]:
    source = random.Random(4)
    return [(source.choice(_ANSWERS[task]), source.choice(_ANSWERS[task])) for _ in range(count)]


@pytest.mark.parametrize(("task", "measure"), _CLASSES)
def test_a_measure_of_classes_is_rivers(task: Task, measure: str) -> None:
    river, tally = getattr(metrics, measure)(), Tally()
    for label, answer in _pairs(task):
        river.update(label, answer)
        tally.add(task, label, answer, math.nan, [measure])
    assert tally.value(measure) == pytest.approx(river.get(), rel=1e-9)


@pytest.mark.parametrize("measure", fitting("regression", has_proba=False))
def test_a_measure_of_numbers_is_rivers(measure: str) -> None:
    source, river, tally = random.Random(5), getattr(metrics, measure)(), Tally()
    for _ in range(200):
        label, answer = source.random() * 9, source.random() * 9
        river.update(label, answer)
        tally.add("regression", label, answer, math.nan, [measure])
    assert tally.value(measure) == pytest.approx(river.get(), rel=1e-9)


def test_losses_of_probabilities_are_rivers() -> None:
    source, log_loss, entropy = random.Random(6), metrics.LogLoss(), metrics.CrossEntropy()
    binary, several = Tally(), Tally()
    for _ in range(100):
        p, label, word = source.random(), source.random() < 0.5, source.choice("abc")
        log_loss.update(label, {True: p, False: 1 - p})
        binary.add("binary", label, p > 0.5, p, ["LogLoss"])
        entropy.update(word, {"a": p, "b": (1 - p) / 2, "c": (1 - p) / 2})
        several.add("multiclass", word, "a", p if word == "a" else (1 - p) / 2, ["CrossEntropy"])
    assert binary.value("LogLoss") == pytest.approx(log_loss.get())
    assert several.value("CrossEntropy") == pytest.approx(entropy.get())


def _area(scores: list[tuple[float, bool]]) -> float:
    positives = [score for score, label in scores if label]
    negatives = [score for score, label in scores if not label]
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    return wins / (len(positives) * len(negatives))


@pytest.mark.parametrize("spread", [1.0, 1e-6, 1e9])
def test_the_area_under_the_curve_is_exact_for_few_scores_and_close_for_many(spread: float) -> None:
    source, curve = random.Random(7), Curve()
    scores = []
    for _ in range(3_000):
        label = source.random() < 0.2
        scores.append((0.97 + spread * source.gauss(0.8 if label else 0.0, 1.0), label))
    for score, label in scores[: STEPS_MAX - 1]:
        curve.add(score, is_true=label)
    assert curve.area() == pytest.approx(_area(scores[: STEPS_MAX - 1]), abs=1e-12)
    for score, label in scores[STEPS_MAX - 1 :]:
        curve.add(score, is_true=label)
    assert curve.area() == pytest.approx(_area(scores), abs=0.005)
    assert len(curve.steps) < 2 * STEPS_MAX


def test_scores_that_come_in_order_stay_bounded_and_right() -> None:
    curve = Curve()
    for number in range(10_000):
        curve.add(float(number), is_true=number >= 5_000)
    assert curve.area() == pytest.approx(1.0, abs=0.005)
    assert len(curve.steps) < 2 * STEPS_MAX


@pytest.mark.parametrize("task", _ANSWERS)
def test_tallies_of_partitions_add_up_to_that_of_all(task: Task) -> None:
    names, pairs = fitting(task, has_proba=False), _pairs(task)
    parts, whole = [Tally(), Tally(), Tally()], Tally()
    for number, (label, answer) in enumerate(pairs):
        for tally in (parts[number % 3], whole):
            tally.add(task, label, answer, number / 300, names)
    told = [msgspec.json.decode(msgspec.json.encode(part)) for part in parts]
    read = [msgspec.convert(part, Tally) for part in told]
    assert values(merged(read), names) == pytest.approx(values(whole, names))
    assert merged(read).matrix() == whole.matrix()


def test_a_matrix_names_labels_and_answers() -> None:
    tally = Tally()
    tally.count(label=True, answer=False, times=3)
    tally.count(label=True, answer=True)
    assert tally.matrix() == {"true": {"true": 1, "false": 3}}


def test_words_that_look_like_numbers_stay_words() -> None:
    tally = Tally()
    for one in ("1", 1, "true", True):
        tally.count(one, one)
    assert tally.cells == {'["1","1"]': 1, "[1,1]": 1, '["true","true"]': 1, "[true,true]": 1}


def test_too_many_classes_have_no_matrix_and_no_measures_of_it() -> None:
    tally = Tally()
    for number in range(CELLS_MAX + 5):
        tally.count(number, number)
    assert tally.matrix() == {}
    assert tally.value("MacroF1") is None
    assert merged([tally]).matrix() == {}


def test_nothing_scored_has_no_measure() -> None:
    assert values(Tally(), ["F1", "ROCAUC", "LogLoss", "MAE", "R2"]) == {}


def test_names_are_those_of_figures() -> None:
    assert [key_of(name) for name in ("F1", "MacroF1", "ROCAUC", "LogLoss", "R2", "RMSE", "MCC")] == [
        *("f1", "macro_f1", "roc_auc", "log_loss", "r2", "rmse", "mcc")
    ]
