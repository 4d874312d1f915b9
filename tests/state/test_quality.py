import math

import numpy as np
import pytest

from headrace.state.quality import Quality, distance, running_sum


def test_a_quality_without_recent_scores_has_no_recent_figures() -> None:
    assert Quality(task="binary", scored=3, total=3.0).summary() == {"scored": 3}


def test_figures_have_the_unit_of_the_label() -> None:
    regression = Quality(task="regression", scored=2, total=4.0, squares=10.0, recent=[1.0, 3.0])
    assert regression.summary() == {"scored": 2, "mae": 2.0, "rmse": pytest.approx(math.sqrt(5)), "mae_recent": 2.0}
    classes = Quality(task="multiclass", scored=4, total=3.0, recent=[1.0, 0.0])
    assert classes.summary() == {"scored": 4, "accuracy": 0.75, "accuracy_recent": 0.5}


def test_numbers_are_added_in_their_order_to_the_last_bit() -> None:
    numbers = np.random.default_rng(1).normal(size=1_000) ** 2
    total = 0.1
    for number in numbers.tolist():
        total += number
    assert running_sum(0.1, numbers) == total


def test_a_distance_is_a_number_or_none() -> None:
    assert distance(3, 1.5) == 1.5
    assert all(math.isnan(distance(odd, 1.0)) for odd in (None, "word", 10**400))


def test_the_window_is_counted_once_until_another_prediction_is_scored() -> None:
    quality = Quality(task="binary", measures=("F1",))
    for number in range(1_500):
        quality.count(number % 3 == 0, number % 2 == 0)
    first = quality.recent_tally()
    assert quality.recent_tally() is first
    assert first.number == 1_000
    quality.count(label=True, answer=True)
    assert quality.recent_tally() == Quality(task="binary", measures=("F1",), window=quality.window).recent_tally()
    assert quality.recent_tally() is not first
