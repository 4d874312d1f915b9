"""The floods: records in which features come late, vanish, come back, change their order and their type."""

import random
from collections.abc import Callable
from typing import Any

Record = tuple[dict[str, Any], Any]
"""Features, and a label or None."""

HUGE = [1e300, -1e300, 1e160, 1.7e308, 1e16, 2**53, -(2**53)]
TINY = [1e-300, -1e-300, 5e-324, 1e-160, 2.2e-308, 0.0, -0.0, 0]
SPOILED = ["7", "", "no number", None, "x", None]
SHOPS = ["oslo", "rome", "kyiv", "žilina", "東京"]
WIDE = [2**53, 2**53 + 1, 2**53 + 2, float(2**53 + 2), -(2**53) - 1, 2**63, 2**64 + 1, 2**70, 10**300]
TERMS = ["buy", "now", "hello", "meeting", "win", "free", "you", "we"]


def flood(food: str, task: str, count: int, *, classes: str = "words", seed: int = 1) -> list[Record]:
    """Make records for a model of this task; the same arguments give the same records."""
    draw = random.Random(f"{food} {task} {classes} {seed}")
    records: list[Record] = []
    for at in range(count):
        features = _FOODS[food](draw, at / count)
        label = _label(draw, features, task, classes, at / count)
        if at > count // 10 and draw.random() < 0.04:
            features = _spoil(draw, features)
        if draw.random() < 0.5:
            features = _shuffled(draw, features)
        if draw.random() < 0.01:
            features = {}
        records.append((features, label if draw.random() < 0.85 else None))
    return records


def torrent(food: str, task: str, count: int, *, classes: str = "words", seed: int = 1) -> list[Record]:
    """Make records in whose second half numbers are huge, tiny or zero at times."""
    draw = random.Random(f"torrent {food} {task} {seed}")
    records = []
    for at, (features, label) in enumerate(flood(food, task, count, classes=classes, seed=seed)):
        changed = dict(features)
        for name, value in features.items():
            if at > count // 2 and isinstance(value, int | float) and draw.random() < 0.1:
                extreme = draw.choice(HUGE + TINY)
                changed[name] = abs(extreme) if food in {"counts", "debts"} else extreme
        number = label if task != "regression" or draw.random() < 0.9 or label is None else draw.choice(HUGE + TINY)
        records.append((changed, number))
    return records


def _numbers(draw: random.Random, progress: float) -> dict[str, Any]:
    features: dict[str, Any] = {
        "a": draw.gauss(0, 1),
        "b": draw.randint(-3, 3),
        "c": draw.gauss(2, 4),
        "d": draw.choice([draw.random(), draw.randint(0, 2), draw.random() < 0.5]),
        "flag": draw.random() < 0.3,
        "constant": 5.0,
        "zero": draw.choice([0.0, -0.0, 0, False]),
    }
    if progress > 0.2:
        features["late"] = draw.expovariate(1)
    if 0.5 < progress < 0.7:
        del features["c"]
    if draw.random() < 0.05:
        features["rare"] = draw.gauss(-1, 2)
    if progress > 0.9 and draw.random() < 0.2:
        features[f"once {draw.randrange(40)}"] = draw.random()
    return {name: value for name, value in features.items() if draw.random() > 0.02}


def _words(draw: random.Random, progress: float) -> dict[str, Any]:
    features = _numbers(draw, progress)
    features["shop"] = draw.choice(SHOPS[: 2 + int(progress * 3)])
    features["city"] = draw.choice(["x", "x_1", "1", "True", "", f"n{int(progress * 10)}"])
    if 0.3 < progress < 0.6:
        del features["shop"]
    if draw.random() < 0.1:
        features["note"] = draw.choice(["é", "a_b", None])
    return features


def _categories(draw: random.Random, progress: float) -> dict[str, Any]:
    return {
        "a": draw.choice([0, 1, 2]),
        "b": draw.choice([1, 1.0, True, "1", "True", "1.0", None, "None"]),
        "shop": draw.choice(SHOPS[: 2 + int(progress * 3)]),
        "b_1": draw.choice(["", 0, -0.0, 0.5, False]),
        **({"late": draw.choice("xyz")} if progress > 0.4 else {}),
        "wide": draw.choice(WIDE),
    }


def _hashable(draw: random.Random, progress: float) -> dict[str, Any]:
    features = _words(draw, progress)
    # Hashed, a null takes no other beside it.
    return {name: value for name, value in features.items() if value is not None or draw.random() < 0.1}


def _gaps(draw: random.Random, progress: float) -> dict[str, Any]:
    features: dict[str, Any] = {
        "a": draw.gauss(0, 1),
        "b": draw.choice([draw.randint(-3, 3), draw.random(), True]),
        "c": draw.gauss(2, 4),
        "shop": draw.choice(SHOPS[: 2 + int(progress * 3)]),
    }
    return {
        name: value if name == "c" or draw.random() < 0.8 else None
        for name, value in features.items()
        if draw.random() > 0.02
    }


def _counts(draw: random.Random, progress: float) -> dict[str, Any]:
    terms = TERMS[: 4 + int(progress * 5)]
    features: dict[str, Any] = {term: draw.randint(0, 5) for term in terms if draw.random() < 0.6}
    features["weight"] = draw.choice([0.5, 0.25, 2.75, 1])
    if draw.random() < 0.3:
        features["flag"] = draw.random() < 0.5
    return features


def _debts(draw: random.Random, progress: float) -> dict[str, Any]:
    return {
        name: -value if draw.random() < 0.01 * progress else value for name, value in _counts(draw, progress).items()
    }


_FOODS: dict[str, Callable[[random.Random, float], dict[str, Any]]] = {
    "numbers": _numbers,
    "words": _words,
    "categories": _categories,
    "hashable": _hashable,
    "gaps": _gaps,
    "counts": _counts,
    "debts": _debts,
}


def _label(draw: random.Random, features: dict[str, Any], task: str, classes: str, progress: float) -> Any:
    numbers = [value for value in features.values() if isinstance(value, int | float) and abs(value) < 2**53]
    score = 1.5 * numbers[0] - 0.5 * sum(numbers[1:3]) + draw.gauss(0, 0.5) if numbers else draw.gauss(0, 1)
    if task == "regression":
        return round(score) if draw.random() < 0.1 else score
    if task == "binary" or classes == "booleans":
        return score > 0
    place = int(score > -1) + int(score > 1)
    if progress > 0.4 and draw.random() < 0.1:
        place = 3
    if progress > 0.8 and draw.random() < 0.05:
        place = 4
    return {
        "words": ["low", "middle", "high", "new", "newest"],
        "numbers": [0, 1, -1, 7, 2**40],
        "mixed": [False, True, 1, 2, 0],
    }[classes][place]


def _spoil(draw: random.Random, features: dict[str, Any]) -> dict[str, Any]:
    """Let a number become a string or null, or leave it out; a string becomes a number."""
    spoiled = dict(features)
    for name in draw.sample(sorted(features), min(len(features), draw.choice([1, 1, 2]))):
        if draw.random() < 0.2:
            del spoiled[name]
        else:
            spoiled[name] = draw.choice([3, 0.25]) if isinstance(features[name], str) else draw.choice(SPOILED)
    return spoiled


def _shuffled(draw: random.Random, features: dict[str, Any]) -> dict[str, Any]:
    items = list(features.items())
    draw.shuffle(items)
    return dict(items)
