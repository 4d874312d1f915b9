"""Generates payments from a seed: good ones for a fraud model, and malformed ones."""

import random
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

# Name, mean, standard deviation, and weight for fraud.
_FEATURES = (
    ("amount", 90.0, 18.0, 1.5),
    ("distance_km", 40.0, 9.0, 1.2),
    ("payments_1h", 6.0, 1.5, 0.9),
    ("merchant_risk", 0.5, 0.1, 0.7),
    ("ip_risk", 0.4, 0.1, 0.6),
    ("account_days", 900.0, 200.0, -1.2),
    ("device_days", 300.0, 70.0, -0.8),
    ("typing_speed", 4.0, 0.8, -0.5),
    ("basket_items", 5.0, 1.2, 0.3),
    ("minutes_idle", 60.0, 14.0, 0.2),
)
_DRIFTING = frozenset({"amount", "distance_km"})
_NOISE = 0.6
_CARDS = 200


class Payment(NamedTuple):
    """One record to send, and its label: whether it is fraud."""

    id: str
    key: bytes
    value: bytes
    label: bool


class BadRecord(NamedTuple):
    """A malformed record, and the code that its dead letter must have."""

    value: bytes
    code: str


class Payments:
    """An endless iterator of payments; the same for the same seed, until `drift` is called."""

    def __init__(self, *, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 nobody's secret depends on it
        self._weights = {name: weight for name, _, _, weight in _FEATURES}
        self._count = 0

    def drift(self) -> None:
        """Change the rule: from now on small payments close to home are fraud, no longer large ones far away."""
        self._weights = {name: -w if name in _DRIFTING else w for name, w in self._weights.items()}

    def __iter__(self) -> Iterator[Payment]:
        while True:
            yield self._next()

    def _next(self) -> Payment:
        rng = self._rng
        self._count += 1
        deviations = [rng.gauss(0.0, 1.0) for _ in _FEATURES]
        risk = sum(w * deviation for w, deviation in zip(self._weights.values(), deviations, strict=True))
        label = risk + rng.gauss(0.0, _NOISE) > 0
        id_ = f"p-{self._count}"
        value = msgspec.json.encode({"id": id_, "features": _features(deviations), "label": label})
        return Payment(id_, f"card-{self._count % _CARDS}".encode(), value, label)


def fixable() -> dict[str, BadRecord]:
    """Return payments, by id, whose amount is text, which `fix.py` can convert."""
    amounts = {"text-1": "129.50", "text-2": "1,250.00", "text-3": "89.90 EUR"}
    return {id_: BadRecord(_payment(id_, amount=text), "wrong_type") for id_, text in amounts.items()}


def unfixable() -> list[BadRecord]:
    """Return records that are malformed in other ways."""
    return [
        BadRecord(_payment("nested", amount={"value": 59.9, "currency": "EUR"}), "wrong_type"),
        BadRecord(_payment("nan", amount=0.25).replace(b"0.25", b"NaN"), "not_json"),
        BadRecord(_payment("cut")[:40], "not_json"),
        BadRecord(_payment("latin-1").replace(b"latin-1", b"Jos\xe9"), "not_utf8"),
        BadRecord(_payment("negative", amount=-59.9), "out_of_range"),
        BadRecord(_payment("undecided", label="maybe"), "bad_label"),
    ]


def _payment(id_: str, *, amount: object = 59.9, label: object = False) -> bytes:
    features = {**_features([0.0] * len(_FEATURES)), "amount": amount}
    return msgspec.json.encode({"id": id_, "features": features, "label": label})


def _features(deviations: list[float]) -> dict[str, float]:
    # The schema allows no amount below zero, and none of these features is negative in reality.
    return {
        name: round(max(0.0, mean + spread * deviation), 2)
        for (name, mean, spread, _), deviation in zip(_FEATURES, deviations, strict=True)
    }
