"""The test: it errs as seldom as it says, finds what is better, and has the same bits however it is computed."""

import math
import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.state.promotion.e_process import CAP, LAMBDAS, fold, needed, start, weight

SOAK = bool(os.environ.get("HEADRACE_SOAK"))
ALPHA = 0.05
STREAMS, PAIRS = (1_000, 100_000) if SOAK else (60, 4_000)


def reference(ratios: list[float]) -> list[float]:
    """Compute the evidence from its formula, from the start for each pair; no state, no numpy."""
    found = []
    for count in range(1, len(ratios) + 1):
        total, number = 0.0, 0
        while start(number) < count:
            behind = ratios[start(number) : count]
            total += weight(number) * math.fsum(math.prod(1.0 + b * r for r in behind) for b in LAMBDAS) / 12.0
            number += 1
        found.append(total + 1.0 / (number + 1))
    return found


@given(st.lists(st.floats(-1, 1), max_size=60))
def test_the_evidence_is_that_of_the_formula(ratios: list[float]) -> None:
    evidence, _ = fold([], 0, ratios)
    assert evidence == pytest.approx(reference(ratios), rel=1e-12)


def test_a_start_begins_where_it_should_and_the_rest_counts_as_one() -> None:
    rows: list[list[float]] = []
    evidence, best = fold(rows, 0, np.zeros(5_000))
    assert evidence == pytest.approx(np.ones(5_000))
    assert [len(rows), start(1), start(2), start(3)] == [4, 1_024, 2_048, 4_096]
    assert sum(weight(number) for number in range(4)) == pytest.approx(1 - 1 / 5)
    assert set(best.tolist()) == {0}


@given(st.integers(0, 2**32), st.lists(st.integers(1, 900), min_size=1, max_size=12))
def test_the_evidence_has_the_same_bits_in_any_pieces(seed: int, sizes: list[int]) -> None:
    chance = random.Random(seed)
    ratios = [chance.uniform(-1, 1) for _ in range(sum(sizes))]
    whole: list[list[float]] = []
    evidence, best = (found.tolist() for found in fold(whole, 0, np.array(ratios)))
    rows: list[list[float]] = []
    found: tuple[list[float], list[int]] = [], []
    done = 0
    for size in sizes:
        part = ratios[done : done + size]
        # Arrays go to compiled code, lists do not.
        some = fold(rows, done, np.array(part) if size % 2 else part)
        found[0].extend(map(float, some[0]))
        found[1].extend(map(int, some[1]))
        done += size
    assert (found, rows) == ((evidence, best), whole)


def test_no_product_grows_to_infinity() -> None:
    rows: list[list[float]] = []
    evidence, _ = fold(rows, 0, np.ones(3_000))
    assert max(map(max, rows)) == CAP
    assert evidence[-1] < math.inf


def test_all_challenges_together_have_alpha() -> None:
    shares = [1.0 / needed(ALPHA / 4, number=number) for number in range(1, 200_000)]
    assert 4 * math.fsum(shares) == pytest.approx(ALPHA, rel=1e-4)
    assert 4 * math.fsum(shares) <= ALPHA


def _swapped(chance: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the differences of two losses whose names a coin swaps at each pair: nobody is better."""
    return np.where(chance.random(len(first)) < 0.5, first - second, second - first)


def _nulls(chance: np.random.Generator, kind: str) -> np.ndarray:
    if kind == "classes":
        return _swapped(chance, (chance.random(PAIRS) < 0.1).astype(float), (chance.random(PAIRS) < 0.04).astype(float))
    if kind == "volatility":
        # The size of the losses is a slow process: AR(1) in its logarithm.
        steps, level = chance.normal(0, 0.2, PAIRS), np.empty(PAIRS)
        last = 0.0
        for at, step in enumerate(steps):
            last = 0.98 * last + step
            level[at] = last
        scale = np.minimum(np.exp(level) / 8, 1.0)
        return _swapped(chance, scale * chance.random(PAIRS), scale * chance.random(PAIRS))
    tails = np.minimum(np.abs(chance.standard_t(1.5, (2, PAIRS))) / 16, 1.0)
    return _swapped(chance, tails[0], tails[1])


def _is_naively_better(differences: np.ndarray) -> bool:
    """Tell whether a paired z ever exceeds 1.645, looked at after each pair from the thousandth on."""
    counts = np.arange(1, len(differences) + 1)
    means = differences.cumsum() / counts
    deviations = np.sqrt(np.maximum((differences**2).cumsum() / counts - means**2, 1e-300))
    z = means / deviations * np.sqrt(counts)
    return bool((z[999:] > 1.645).any())


@pytest.mark.parametrize("kind", ["classes", "volatility", "tails"])
def test_who_is_not_better_is_promoted_as_seldom_as_alpha_says(kind: str) -> None:
    chance = np.random.default_rng(7)
    false = naive = 0
    for _ in range(STREAMS):
        differences = _nulls(chance, kind)
        evidence, _ = fold([], 0, differences)
        false += max(evidence) >= 1.0 / ALPHA
        naive += _is_naively_better(differences)
    # Three sigma above alpha.
    assert false <= STREAMS * ALPHA + 3 * math.sqrt(STREAMS * ALPHA * (1 - ALPHA))
    # The same look at each pair fools a test that was made for one look.
    assert naive > STREAMS * (0.3 if SOAK else 0.05)


def test_who_is_better_is_found_soon() -> None:
    chance, found = np.random.default_rng(5), []
    for _ in range(100 if SOAK else 15):
        outcomes = chance.choice([1.0, -1.0, 0.0], 20_000, p=[0.04, 0.02, 0.94])
        evidence, _ = fold([], 0, outcomes)
        found.append(next(at for at, value in enumerate(evidence) if value >= 1.0 / ALPHA))
    assert sorted(found)[len(found) // 2] <= 2_500
