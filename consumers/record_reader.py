"""Turns a decoded value into an event or a label by the configured mapping, whatever format it was decoded from.

The decoders of JSON (`mapped_decoder.py`) and of the other formats give it a dict. The scanner of JSON reads the same
values from the text, so each rule here is a rule there.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from headrace.consumers.mapping import FieldPath, RecordMapping, header_value
from headrace.consumers.record import SKIPPED, Event, Label, Record, Skipped
from headrace.consumers.refusal import Refusal, encodable, leaf_faults, refuse_ts, wrong_type
from headrace.consumers.schema import DeclaredType, Schema
from headrace.consumers.timestamp import NUMBER, UNITS, read_time, refuse_time

FLAT_NAMES_MAX = 4_000_000
"""The number of characters that the flattened names of one record may have: they repeat the names of outer objects."""


class Declared(NamedTuple):
    """What a writer's schema declares: the types of fields, by path, and the paths of those that may be null."""

    types: Mapping[str, DeclaredType] = {}
    nullable: frozenset[str] = frozenset()


NumberText = Callable[[Record, FieldPath, float], str]
"""Returns the JSON text of a number at a path of a record's value."""

_NOTHING = Declared()
_FEATURE = "a number, a string or a boolean"
_NESTED = "; records.flatten takes objects and arrays apart, records.exclude leaves them out"
_DAY_MS = 86_400_000
# Integers of fewer bits fit a double.
_BITS_MAX = 1_023


def encoded_number(_record: Record, _path: FieldPath, number: float) -> str:
    """Return a number as JSON text, where the record has no text of its own for it."""
    return msgspec.json.encode(number).decode()


class FieldReader:
    """Read the id, the event time and the label of a record by a mapping.

    With `absent_nulls` a field that is null counts as not there.
    """

    def __init__(self, mapping: RecordMapping, *, absent_nulls: bool, number_text: NumberText) -> None:
        self._mapping = mapping
        self._absent_nulls = absent_nulls
        self._number_text = number_text

    def id(self, whole: dict[str, Any], record: Record) -> str | msgspec.UnsetType | Refusal:
        """Return the id. A number or a boolean is its JSON text."""
        mapping = self._mapping
        found = self._find(mapping.id_path, mapping.id, whole, record)
        if isinstance(found, str):
            return found if found.isascii() or encodable(found) else _half_surrogate(mapping.id)
        if found is msgspec.UNSET or isinstance(found, Refusal):
            return found
        if isinstance(found, bool):
            return "true" if found else "false"
        if isinstance(found, int | float):
            is_told = mapping.id_path.source == "value"
            return self._number_text(record, mapping.id_path, found) if is_told else str(found)
        return wrong_type(mapping.id, found, "a string, a number or a boolean")

    def ts(self, whole: dict[str, Any], record: Record, declared: Declared) -> int | msgspec.UnsetType | Refusal:
        """Return the event time in milliseconds since 1970."""
        mapping, unit = self._mapping, self._mapping.ts_unit
        found = self._find(mapping.ts_path, mapping.ts, whole, record)
        if found is msgspec.UNSET or isinstance(found, Refusal):
            return found
        if isinstance(found, bool) or not isinstance(found, int | float | str):
            return wrong_type(mapping.ts, found, UNITS[unit])
        if mapping.ts_path.source == "timestamp" or declared.types.get(mapping.ts) == "milliseconds":
            unit = "ms"
        elif declared.types.get(mapping.ts) == "days" and isinstance(found, int | float):
            unit, found = "ms", found * _DAY_MS
        ts = read_time(found, unit)
        if ts is None:
            return refuse_time(found, unit, mapping.ts)
        return refuse_ts(ts, mapping.ts) or ts

    def label(self, whole: dict[str, Any], record: Record) -> Any:
        """Return the label as it was decoded, UNSET for none; the model decides later whether it can learn it."""
        mapping = self._mapping
        found = self._find(mapping.label_path, mapping.label, whole, record)
        kind = type(found)
        if kind is str and mapping.label_path.source != "value":
            return _plain_value(found)
        if kind is bool or found is msgspec.UNSET or kind is Refusal:
            return found
        return next(leaf_faults({mapping.label: found}), found)

    def _find(self, path: FieldPath, field: str, whole: dict[str, Any], record: Record) -> Any:
        """Return what is at a path; UNSET if it leads nowhere."""
        if path.source == "value":
            found = find(whole, path.names)
            return msgspec.UNSET if found is None and self._absent_nulls else found
        if path.source == "timestamp":
            return record.timestamp_ms if record.timestamp_ms >= 0 else msgspec.UNSET
        if path.source == "nowhere":
            return msgspec.UNSET
        text = record.key if path.source == "key" else header_value(record.headers, path.names[0])
        try:
            return msgspec.UNSET if text is None else text.decode()
        except UnicodeDecodeError:
            return Refusal("not_utf8", "decode", f"{field} is not UTF-8 text", field)


class RecordReader:
    """Read events from decoded values, by a mapping and a schema.

    With a `transform` the value that it returns is read instead, in the form of the default mapping. `number_text`
    returns the text of an id that is a number.
    """

    def __init__(
        self,
        mapping: RecordMapping,
        *,
        schema: Schema | None = None,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        number_text: NumberText = encoded_number,
    ) -> None:
        self._mapping = mapping
        self._schema = schema or Schema({})
        self._transform = transform
        self._fields = FieldReader(
            mapping,
            absent_nulls=mapping.nulls == "skip" or transform is not None,
            number_text=number_text if transform is None else encoded_number,
        )
        self._prefix = mapping.feature_prefix
        self._above = f"{mapping.features}." if mapping.features else ""
        self._wanted = _FEATURE + ("" if mapping.is_default or transform is not None else _NESTED)

    def read(
        self, whole: dict[str, Any], record: Record, declared: Declared | None = None
    ) -> Event | Skipped | Refusal:
        """Read the event of a decoded value; `declared` tells of the writer's schema. Never raises."""
        if self._transform is None:
            found = self._read(whole, record, declared or _NOTHING)
        else:
            found = self._read_transformed(self._transform, whole, record)
        if isinstance(found, Event) and (fault := self._schema.check(found.features)) is not None:
            return Refusal(fault.code, "validate", fault.message, self._prefix + fault.feature)
        return found

    def _read_transformed(
        self, transform: Callable[[dict[str, Any]], Any], whole: dict[str, Any], record: Record
    ) -> Event | Skipped | Refusal:
        try:
            made = transform(whole)
            if made is None:
                return SKIPPED
            if isinstance(made, dict) and isinstance(made.get("label"), dict | list):
                # It may hold itself; then this raises.
                msgspec.json.encode(made["label"])
            found = self._read(made, record, _NOTHING) if isinstance(made, dict) else made
            if isinstance(found, Event) and (name := next((n for n in found.features if type(n) is not str), None)):
                found = Refusal("wrong_type", "decode", f"the name {name!r} of a feature is not text", "features")
        except (Exception, SystemExit) as error:  # noqa: BLE001 the user's function may raise anything
            return Refusal("transform_failed", "decode", f"records.transform raised {_told(error)}")
        if isinstance(found, Event):
            return found
        words = found.message if isinstance(found, Refusal) else f"it is a {type(found).__name__}"
        field = found.field if isinstance(found, Refusal) else ""
        message = f'records.transform must return a record such as {{"features": {{…}}}}, or None to skip it: {words}'
        return Refusal("transform_failed", "decode", message, field)

    def _read(self, whole: dict[str, Any], record: Record, declared: Declared) -> Event | Skipped | Refusal:
        mapping, fields = self._mapping, self._fields
        inner = find(whole, mapping.features_path)
        if not isinstance(inner, dict):
            return self._refuse_features(inner)
        id_, ts, label = fields.id(whole, record), fields.ts(whole, record, declared), fields.label(whole, record)
        for value in (id_, ts, label):
            if isinstance(value, Refusal):
                return value
        features: dict[str, Any] = {}
        for name, value in self._flat(inner) if mapping.flatten else self._top(inner):
            kept = self._feature(name, value, declared)
            if type(kept) is Refusal:
                return kept
            if kept is msgspec.UNSET:
                continue
            if name in features:
                words = f"two fields have the name {name}; records.exclude can leave both out"
                return Refusal("wrong_type", "decode", words, self._prefix + name)
            features[name] = kept
        return Event(features, id_, ts, label)  # type: ignore[arg-type]  # none of them is a refusal

    def _refuse_features(self, found: Any) -> Skipped | Refusal:
        field = self._mapping.features
        is_absent = found is msgspec.UNSET
        if (found is None or is_absent) and self._mapping.empty == "skip" and self._transform is None:
            return SKIPPED
        if is_absent:
            return Refusal("missing_field", "decode", f"the field `{field}` is missing", field)
        return wrong_type(field, found, "an object of names and values")

    def _top(self, inner: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the fields of the features that the mapping takes."""
        if self._mapping.takes_all:
            return iter(inner.items())
        return ((name, value) for name, value in inner.items() if self._mapping.takes(name))

    def _flat(self, inner: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the fields at any depth that the mapping takes, in their order, with their paths as names."""
        mapping, size = self._mapping, 0
        # Not recursive: deep nesting must not exhaust the stack.
        stack: list[tuple[str, Iterator[tuple[Any, Any]]]] = [("", iter(inner.items()))]
        while stack:
            above, fields = stack[-1]
            for key, value in fields:
                name = f"{above}{key}"
                size += len(name)
                if size > FLAT_NAMES_MAX:
                    yield "", _TOO_LONG
                    return
                if isinstance(value, dict | list):
                    if not mapping.leaves_out(name):
                        inside = value.items() if isinstance(value, dict) else enumerate(value)
                        stack.append((f"{name}.", iter(inside)))
                        break
                elif mapping.takes_all or mapping.takes(name):
                    yield name, value
            else:
                stack.pop()

    def _feature(self, name: str, value: Any, declared: Declared) -> Any:
        """Return a feature as the model gets it, UNSET for one that counts as not there, or a Refusal."""
        kind = type(value)
        if type(name) is str and not name.isascii() and not encodable(name):
            return _half_surrogate("")
        if kind is str and self._mapping.numbers == "parse" and self._is_numeric(name, declared):
            value = _parsed(value)
            kind = type(value)
        if kind is bool or (kind is str and (value.isascii() or encodable(value))):
            return value
        if (kind is float and math.isfinite(value)) or (kind is int and value.bit_length() <= _BITS_MAX):
            return value
        if value is None and self._schema.is_nullable(name):
            return None
        if value is None and self._mapping.nulls == "skip":
            return msgspec.UNSET
        if value is None and self._above + name in declared.nullable:
            return None
        if self._transform is not None and (plain := _builtin(value)) is not value:
            return self._feature(name, plain, declared)
        return self._refuse_feature(self._prefix + name, value)

    def _refuse_feature(self, field: str, value: Any) -> Refusal:
        if value is _TOO_LONG:
            words = f"the names of its flattened features have more than {FLAT_NAMES_MAX:,} characters"
            return Refusal("too_large", "decode", f"{words}; records.exclude leaves objects out")
        if isinstance(value, float) and math.isnan(value):
            return Refusal("not_finite", "decode", f"{field} is NaN; it must be a finite number", field)
        fault = next(leaf_faults({field: value}), None) if isinstance(value, int | float | str) else None
        return wrong_type(field, value, self._wanted) if fault is None else fault

    def _is_numeric(self, name: str, declared: Declared) -> bool:
        return self._schema.is_numeric(name) or declared.types.get(self._above + name) in {"number", "integer"}


class LabelReader:
    """Read labels from decoded values of the labels topic, by a mapping whose features nobody reads."""

    def __init__(self, mapping: RecordMapping, *, number_text: NumberText = encoded_number) -> None:
        self._mapping = mapping
        self._fields = FieldReader(mapping, absent_nulls=mapping.nulls == "skip", number_text=number_text)

    def read(
        self, whole: dict[str, Any], record: Record, declared: Declared | None = None
    ) -> Label | Skipped | Refusal:
        """Read the label of a decoded value. Never raises."""
        mapping, fields = self._mapping, self._fields
        label = fields.label(whole, record)
        if (label is msgspec.UNSET or label is None) and mapping.empty == "skip":
            return SKIPPED
        id_, ts = fields.id(whole, record), fields.ts(whole, record, declared or _NOTHING)
        for field, value in ((mapping.id, id_), (mapping.label, label)):
            if value is msgspec.UNSET:
                return Refusal("missing_field", "decode", f"the field `{field}` is missing", field)
        for value in (id_, ts, label):
            if isinstance(value, Refusal):
                return value
        return Label(id_, label, ts)  # type: ignore[arg-type]  # an id that is not there was refused


def find(whole: Any, names: tuple[str, ...]) -> Any:
    """Return what is in a value below objects of these names; UNSET if a name is missing, or not in an object."""
    for name in names:
        if not isinstance(whole, dict):
            return msgspec.UNSET
        whole = whole.get(name, msgspec.UNSET)
    return whole


_TOO_LONG = object()
_decode_any = msgspec.json.Decoder().decode


def _parsed(text: str) -> Any:
    """Return the number that a text is; any other text stays."""
    digits = text.strip()
    if not NUMBER.fullmatch(digits):
        return text
    return int(digits) if digits.lstrip("+-").isdigit() and len(digits) <= _BITS_MAX else float(digits)


def _plain_value(text: str) -> Any:
    """Return the number or the boolean that the text of a header or a key is; any other text stays."""
    try:
        found = _decode_any(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return text
    return found if isinstance(found, bool | int | float) else text


def _builtin(value: Any) -> Any:
    """Return a scalar of numpy, or of a subclass of Python's own types, as the plain type; others unchanged."""
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        return value.item()
    for kind in (int, float, str):
        if isinstance(value, kind) and type(value) not in {bool, kind}:
            return kind.__str__(value) if kind is str else kind(value)
    return value


def _half_surrogate(field: str) -> Refusal:
    return Refusal("not_json", "decode", f"{field or 'the name of a feature'} has half of a surrogate pair", field)


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 an error of the user's may not even have a text
        return type(error).__name__
