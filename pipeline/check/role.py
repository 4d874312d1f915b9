"""Decides the role of each field: the id, the time, the label, a feature, or none, with the reason."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from headrace.pipeline.check.field import FieldFacts

Encoding = Literal["number", "parsed number", "one-hot", "hashed", "code", "left out"]
TsUnit = Literal["s", "ms", "us", "ns", "iso"]

ONE_HOT_MAX = 50
"""A text with more values than this is hashed."""
_RECORDS_MIN = 20
"""With fewer records it means little that no value came twice."""
_UNIQUE = 0.95
_MOST = 0.5
_COUNT_GAPS = 1.2

_ID_NAMES = (
    "id",
    "event_id",
    "eventid",
    "record_id",
    "message_id",
    "transaction_id",
    "txn_id",
    "tx_id",
    "uuid",
    "guid",
)
_TS_NAMES = (
    "ts",
    "timestamp",
    "@timestamp",
    "event_time",
    "time",
    "occurred_at",
    "created_at",
    "datetime",
    "date",
    "t",
)
_LABEL_NAMES = (
    "label", "target", "y", "class", "outcome", "is_fraud", "isfraud", "fraud", "churn", "churned", "clicked",
    "converted", "defaulted", "is_spam", "spam", "is_anomaly", "anomaly", "survived",
)  # fmt: skip
_IS_ID = re.compile(r"(?:^|[_.-])(?:id|uuid|guid|key|hash|token)$|[a-z](?:Id|ID|Uuid|UUID)$")
_IS_TIME = re.compile(
    r"(?:^|[_.-])(?:ts|time|timestamp|date|datetime|at|ts_ms|time_ms)$|[a-z](?:At|Time|Date|Timestamp)$"
)
# From 2000 to 2100, in seconds.
_TIMES_S = (946_684_800, 4_102_444_800)
_UNITS: dict[TsUnit, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


class FieldRole(msgspec.Struct, frozen=True):
    """How a feature is used, and why."""

    encoding: Encoding
    reason: str


def find_id(fields: Mapping[str, FieldFacts], records: int) -> FieldFacts | None:
    """Return the field that names each record: by its name, and because no value came twice."""
    unique = [
        field
        for field in fields.values()
        if field.seen == records and field.is_unique and field.type in {"string", "integer"}
        and (_IS_ID.search(field.leaf) or field.leaf.lower() in _ID_NAMES or field.all_look("uuid"))
    ]  # fmt: skip
    return min(unique, key=lambda field: (_rank(field, _ID_NAMES), field.name.count(".")), default=None)


def find_ts(fields: Mapping[str, FieldFacts], records: int) -> tuple[FieldFacts, TsUnit] | None:
    """Return the field that says when a record happened, with its unit."""
    found = [
        (field, unit)
        for field in fields.values()
        if field.seen == records and (_IS_TIME.search(field.leaf) or field.leaf.lower() in _TS_NAMES)
        and (unit := unit_of(field)) is not None
    ]  # fmt: skip
    return min(found, key=lambda pair: (_rank(pair[0], _TS_NAMES), pair[0].name.count(".")), default=None)


def unit_of(field: FieldFacts) -> TsUnit | None:
    """Return the unit in which all values are times between 2000 and 2100; None if there is none."""
    if field.all_look("rfc3339"):
        return "iso"
    if field.type not in {"integer", "number"} or field.smallest is None or field.largest is None:
        return None
    low, high = _TIMES_S
    return next((u for u, s in _UNITS.items() if low * s <= field.smallest and field.largest <= high * s), None)


def find_labels(fields: Iterable[FieldFacts]) -> list[FieldFacts]:
    """Return the fields whose name says that they are a label, the likeliest first."""
    named = [field for field in fields if field.leaf.lower() in _LABEL_NAMES and field.type != "null"]
    return sorted(named, key=lambda field: _rank(field, _LABEL_NAMES))


def role_of(field: FieldFacts, records: int) -> FieldRole:
    """Return the role of a field that is neither the id, nor the time, nor the label."""
    if field.type == "null":
        return FieldRole("left out", "only null was seen")
    if field.type == "mixed":
        kinds = " and ".join(f"{kind} in {count:,}" for kind, count in field.types.most_common())
        return FieldRole("left out", f"its type changes: {kinds} records")
    if field.type in {"bytes", "nested"}:
        return FieldRole("left out", f"{field.type} values are not a feature")
    if field.type == "boolean":
        return FieldRole("number", "true is 1, false is 0")
    if field.type == "string":
        return _text_role(field)
    return _number_role(field, records)


def _text_role(field: FieldFacts) -> FieldRole:
    repeats = field.distinct <= _MOST * field.seen
    for look, what in (("address", "an address (URL)"), ("mail", "an e-mail address"), ("time", "a time")):
        if field.all_look(look):
            return FieldRole("left out", f"{what} is not a feature")
    if field.all_look("number") and not _IS_ID.search(field.leaf):
        return FieldRole("parsed number", "numbers that are written as text")
    is_unique = field.seen >= _RECORDS_MIN and field.distinct >= _UNIQUE * field.seen
    if field.all_look("uuid") or (_IS_ID.search(field.leaf) and not (repeats and field.distinct <= ONE_HOT_MAX)):
        return FieldRole("left out", f"an id is not a feature ({field.distinct:,} values in {field.seen:,} records)")
    if is_unique and field.looks["sentence"] > _MOST * field.seen:
        return FieldRole("left out", "free text: count its words (river.feature_extraction) to make features of it")
    if is_unique:
        return FieldRole("left out", "nearly every record has another value: an id is not a feature")
    if field.distinct <= ONE_HOT_MAX:
        return FieldRole("one-hot", f"{field.distinct} values")
    return FieldRole("hashed", f"{field.distinct:,} values, more than {ONE_HOT_MAX}")


def _number_role(field: FieldFacts, records: int) -> FieldRole:
    is_long = field.seen >= _RECORDS_MIN
    is_time = _IS_TIME.search(field.leaf) is not None or (field.type == "integer" and is_long and field.is_unique)
    if is_time and unit_of(field) is not None:
        return FieldRole("left out", "a time is not a feature: it only grows")
    if field.type == "integer" and _IS_ID.search(field.leaf):
        few = field.distinct <= ONE_HOT_MAX and field.distinct <= _MOST * field.seen
        if few and field.seen == records:
            return FieldRole("code", f"a number that names something, {field.distinct} values")
        return FieldRole("left out", f"an id is not a feature ({field.distinct:,} values in {field.seen:,} records)")
    if field.type == "integer" and is_long and field.is_unique and _is_count(field):
        return FieldRole("left out", "it counts the records")
    return FieldRole("number", "a number")


def _is_count(field: FieldFacts) -> bool:
    assert field.smallest is not None
    assert field.largest is not None
    # Records of other partitions, which the sample does not have, leave gaps.
    return field.largest - field.smallest < _COUNT_GAPS * field.seen


def _rank(field: FieldFacts, names: Sequence[str]) -> int:
    name = field.leaf.lower()
    return names.index(name) if name in names else len(names)
