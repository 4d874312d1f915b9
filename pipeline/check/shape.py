"""Recognises the form of the records of a topic: where the features lie, and what surrounds them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from headrace.pipeline.check.field import FieldFacts, leaves

_MOST = 0.5
_NEARLY_ALL = 0.9
_WRAPPERS = ("data", "payload", "body", "event", "record", "value", "attributes", "properties", "fields")
_KIND_NAMES = ("type", "event_type", "eventtype", "event", "event_name", "kind", "action")
_KINDS_MAX = 20


class SampleRecord(msgspec.Struct, frozen=True):
    """One record of the sample: its decoded value, its headers as text, and whether it has a Kafka key."""

    value: dict[str, Any]
    headers: Mapping[str, str] = {}
    has_key: bool = False


class RecordShape(msgspec.Struct, frozen=True):
    """The form of the records. `features` is the path of the features; `id` and `ts` are None if the form has none."""

    name: str
    features: str
    id: str | None = None
    ts: str | None = None
    has_deletes: bool = False


def shape_of(records: Sequence[SampleRecord]) -> RecordShape:
    """Return the form that most of these records have."""
    values = [record.value for record in records]
    if _share(values, lambda value: isinstance(value.get("features"), dict)):
        return RecordShape("the form of Headrace: an object `features`", "features", "id", "ts")
    for prefix, inner in (("", values), ("payload.", [part for value in values if _is(part := value.get("payload"))])):
        if inner and _share(inner, _is_change, of=len(values)):
            return RecordShape(
                "changes of a table, from Debezium", f"{prefix}after", None, f"{prefix}ts_ms", has_deletes=True
            )
    if _share(values, lambda value: "specversion" in value and "type" in value and _is(value.get("data"))):
        return RecordShape("CloudEvents, structured", "data", "id", "time")
    if _share(records, lambda record: "ce_specversion" in record.headers or "ce_id" in record.headers):
        ts = "$headers.ce_time" if _share(records, lambda record: "ce_time" in record.headers) else None
        return RecordShape("CloudEvents, binary: the id and the time are headers", "", "$headers.ce_id", ts)
    wrapper = _wrapper(values)
    if wrapper:
        return RecordShape(f"an object `{wrapper}` inside of others", wrapper)
    is_nested = any(isinstance(part, dict | list) for value in values for part in value.values())
    return RecordShape("objects that hold others" if is_nested else "flat objects", "")


def features_in(value: Any, path: str) -> Any:
    """Return the object at a path of names with dots; None if there is none."""
    for name in path.split(".") if path else ():
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None


def kinds_of(
    values: Sequence[Mapping[str, Any]], fields: Mapping[str, FieldFacts]
) -> tuple[str, dict[str, int]] | None:
    """Return the field that tells several kinds of records apart, and the number of each; None if all are of one kind.

    Kinds differ in the fields that they have.
    """
    for field in fields.values():
        few = 1 < field.distinct <= _KINDS_MAX and field.distinct < field.seen
        if field.leaf.lower() in _KIND_NAMES and few and field.seen == len(values) and field.type == "string":
            counts = {str(kind): count for (_, kind), count in field.values.most_common()}
            names: dict[str, set[str]] = {}
            for value in values:
                found = dict(leaves(value))
                names.setdefault(str(found.get(field.name)), set()).update(found)
            if len(set(map(frozenset, names.values()))) > 1:
                return field.name, counts
    return None


def _is(value: Any) -> bool:
    return isinstance(value, dict)


def _is_change(value: Mapping[str, Any]) -> bool:
    return "op" in value and ("after" in value or "before" in value) and ("source" in value or "ts_ms" in value)


def _share(values: Sequence[Any], test: Any, *, of: int | None = None) -> bool:
    return sum(map(bool, map(test, values))) > _MOST * (len(values) if of is None else of)


def _wrapper(values: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the only nested object, if it has a usual name and nearly all records have it."""
    nested = {name for value in values for name, part in value.items() if isinstance(part, dict | list)}
    name = nested.pop() if len(nested) == 1 else ""
    is_usual = name in _WRAPPERS and sum(_is(value.get(name)) for value in values) >= _NEARLY_ALL * len(values)
    return name if is_usual else ""
