"""Records as topics have them, one function for each shape; unit tests and end-to-end tests share them."""

import itertools
import json
import random
import uuid
from collections.abc import Callable
from typing import Any

from headrace.pipeline.check.shape import SampleRecord
from headrace.pipeline.commands.init import sample as own_form

COUNT = 200
STARTED_S = 1_750_000_000
COUNTRIES = ("DE", "FR", "NO", "US")


def payment(rng: random.Random, number: int) -> dict[str, Any]:
    amount = round(rng.lognormvariate(3, 1), 2)
    return {"amount": amount, "country": rng.choice(COUNTRIES), "hour": number % 24, "known": rng.random() < 0.6}


def flat() -> list[dict[str, Any]]:
    rng = random.Random(1)
    return [
        {
            "transaction_id": f"{rng.getrandbits(64):016x}",
            "created_at": f"2026-03-01T10:{n // 60:02d}:{n % 60:02d}.5+01:00",
            **(one := payment(rng, n)),
            "is_fraud": one["amount"] > 25,
        }
        for n in range(COUNT)
    ]


def debezium() -> list[dict[str, Any] | None]:
    rng = random.Random(2)
    changes: list[dict[str, Any] | None] = []
    for n in range(COUNT):
        row = {
            "order_id": n,
            **payment(rng, n),
            "status": rng.choice(("new", "paid")),
            "churned": n % 3 == 0,
            "note": None,
        }
        after = None if n % 20 == 19 else row
        op = "d" if after is None else "c"
        source = {"connector": "postgresql", "ts_ms": (STARTED_S + n) * 1_000, "lsn": n * 8, "table": "orders"}
        payload = {"before": row if op == "d" else None, "after": after, "source": source, "op": op,
                   "ts_ms": (STARTED_S + n) * 1_000 + 5}  # fmt: skip
        changes.append({"schema": {"type": "struct", "fields": []}, "payload": payload})
        if after is None:
            changes.append(None)
    return changes


def cloudevents() -> list[dict[str, Any]]:
    rng = random.Random(3)
    return [
        {
            "specversion": "1.0",
            "id": str(uuid.UUID(int=rng.getrandbits(128))),
            "source": "/shop",
            "type": "payment.made",
            "time": f"2026-03-01T10:{n // 60:02d}:{n % 60:02d}Z",
            "data": {**(one := payment(rng, n)), "outcome": "lost" if one["amount"] > 25 else "won"},
        }
        for n in range(COUNT)
    ]


def mixed() -> list[dict[str, Any]]:
    rng = random.Random(4)
    found: list[dict[str, Any]] = []
    for n in range(COUNT):
        common = {"event_id": n * 7 + 1, "type": ("order", "click", "refund")[n % 3], "ts": STARTED_S + n}
        if common["type"] == "order":
            found.append(
                {**common, "amount": rng.random() * 90, "items": ["a"] * (n % 5), "shop": {"country": "NO", "size": 3}}
            )
        elif common["type"] == "click":
            found.append({**common, "page": rng.choice(("home", "cart")), "ms": n, "clicked": n % 2 == 0})
        else:
            found.append({**common, "amount": str(n), "reason": None})
    return found


def unlabelled() -> list[dict[str, Any]]:
    rng = random.Random(5)
    return [
        {"sensor": f"s-{n % 7}", "temperature": rng.gauss(20, 3), "t": (STARTED_S + n) * 1_000_000}
        for n in range(COUNT)
    ]


def wordy() -> list[dict[str, Any]]:
    rng = random.Random(6)
    words = ["late", "parcel", "broken", "thanks", "refund", "please", "order", "never"]
    return [
        {
            "id": f"m-{n}",
            "user_id": rng.randrange(10_000_000),
            "session": str(uuid.UUID(int=rng.getrandbits(128))),
            "page": f"https://example.com/item/{n}",
            "mail": f"user{n}@example.com",
            "text": " ".join(rng.choices(words, k=8)) + f" {n}",
            "category": f"c-{rng.randrange(80)}",
            "price": f"{rng.random() * 50:.2f}",
            "zip": f"0{rng.randrange(1_000, 1_040)}",
            "store_id": n % 9,
            "seen": STARTED_S + n,
            "Unnamed: 0": n,
            "target": rng.random() * 1_000,
        }
        for n in range(COUNT)
    ]


def wide() -> list[dict[str, Any]]:
    rng = random.Random(8)
    return [{"y": n % 4, **{f"f{k:03d}": rng.gauss(0, 1) for k in range(1_000)}} for n in range(60)]


SHAPES: dict[str, Callable[[], list[dict[str, Any] | None]]] = {
    "own": lambda: list(own_form()),
    "flat": flat,  # type: ignore[dict-item]
    "debezium": debezium,
    "cloudevents": cloudevents,  # type: ignore[dict-item]
    "mixed": mixed,  # type: ignore[dict-item]
    "unlabelled": unlabelled,  # type: ignore[dict-item]
    "wordy": wordy,  # type: ignore[dict-item]
    "wide": wide,  # type: ignore[dict-item]
}


def sample_of(shape: str) -> list[SampleRecord]:
    return [SampleRecord(value) for value in SHAPES[shape]() if value is not None]


def values_of(shape: str) -> list[bytes | None]:
    return [None if value is None else json.dumps(value).encode() for value in SHAPES[shape]()]


def binary() -> tuple[list[bytes], list[list[tuple[str, bytes]]]]:
    """Return the values and the headers of CloudEvents in binary mode."""
    events = list(itertools.islice(cloudevents(), COUNT))
    headers = [
        [(f"ce_{name}", event[name].encode()) for name in ("specversion", "id", "type", "time")] for event in events
    ]
    return [json.dumps(event["data"]).encode() for event in events], headers
