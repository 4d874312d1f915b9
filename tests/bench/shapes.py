"""The shapes of records: the same features, ids, times and labels, written as different producers write them.

Each shape has the configuration with which Headrace reads it; all give the same predictions.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stream import Row, events, key_of

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """A way to write an event: `value` returns what is encoded, and `headers` what stands beside it."""

    title: str
    value: Callable[[Event], Any]
    settings: dict[str, Any] = field(default_factory=dict)
    headers: Callable[[Event], list[tuple[str, bytes]]] | None = None

    def rows(self, count: int) -> Iterator[Row]:
        """Yield records with their keys."""
        for index, event in enumerate(events(count)):
            row: Row = {"key": key_of(index), "value": json.dumps(self.value(event)).encode()}
            yield row if self.headers is None else {**row, "headers": self.headers(event)}


def _flat(event: Event) -> Any:
    return {"event_id": event["id"], "created": event["ts"], **event["features"], "clicked": event["label"]}


def _nested(event: Event) -> Any:
    return {"meta": {"id": event["id"], "at": event["ts"]}, "data": {"x": event["features"]}, "y": event["label"]}


def _in_groups(event: Event) -> Any:
    numbers = list(event["features"].items())
    inner = {"first": dict(numbers[:5]), "rest": {"values": [number for _, number in numbers[5:]]}}
    return {**event, "features": inner}


def _debezium(event: Event) -> Any:
    row = {"id": event["id"], **event["features"], "clicked": event["label"]}
    source = {"version": "2.7.0.Final", "connector": "postgresql", "name": "shop", "ts_ms": event["ts"]}
    source |= {"snapshot": "false", "db": "shop", "sequence": '["24023128","24023232"]', "schema": "public"}
    source |= {"table": "events", "txId": 571, "lsn": 24023232, "xmin": None}
    return {"before": None, "after": row, "source": source, "op": "c", "ts_ms": event["ts"], "transaction": None}


def _cloud_headers(event: Event) -> list[tuple[str, bytes]]:
    time = datetime.fromtimestamp(event["ts"] / 1_000, UTC).isoformat(timespec="milliseconds")
    named = {"specversion": "1.0", "type": "shop.event", "source": "/shop", "id": event["id"], "time": time}
    return [*((f"ce_{name}", text.encode()) for name, text in named.items()), ("content-type", b"application/json")]


SHAPES = {
    "json": Shape("JSON as in the README", lambda event: event),
    "flat": Shape(
        "flat JSON",
        _flat,
        {"records.features": "", "records.id": "event_id", "records.ts": "created", "records.label": "clicked"},
    ),
    "nested": Shape(
        "nested JSON",
        _nested,
        {"records.features": "data.x", "records.id": "meta.id", "records.ts": "meta.at", "records.label": "y"},
    ),
    "flatten": Shape("features in objects, flattened", _in_groups, {"records.flatten": True}),
    "debezium": Shape(
        "Debezium, changes of a table",
        _debezium,
        {
            "records.features": "after",
            "records.id": "after.id",
            "records.ts": "ts_ms",
            "records.label": "after.clicked",
            "records.empty": "skip",
        },
    ),
    "cloudevents": Shape(
        "CloudEvents, binary mode",
        lambda event: {**event["features"], "clicked": event["label"]},
        {
            "records.features": "",
            "records.id": "$headers.ce_id",
            "records.ts": "$headers.ce_time",
            "records.ts_unit": "iso",
            "records.label": "clicked",
        },
        _cloud_headers,
    ),
    "transform": Shape("flat JSON, read by a transform", _flat, {"records.transform": "model:record"}),
}
"""The shapes by name; the first is the one to compare with."""
