"""The reasons for which a record is refused (400): their codes, and the slow search for the wrong field."""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

RefusalStage = Literal["decode", "validate", "join", "learn", "sink"]
Faults = Callable[[dict[str, Any]], Iterator["Refusal"]]
"""Yields the refusals of a JSON object's fields, in their order."""

# The largest double is 1.8e308, so an integer that does not fit has at least 309 digits.
_DIGITS_MAX = 308
_HUGE_INTEGER = re.compile(rb"\d{309}")
# A cheap test first: 309 digits in a row leave at least ten in a row in a sample of every 30th byte.
_STEP = 30
_SAMPLED = re.compile(rb"\d{10}")
_NUMBER = (int, float)
_WHITE_SPACE = " \t\n\r"
_BYTE_ORDER_MARK = "\ufeff"
# msgspec's error for JSON without its end, and for half of a surrogate pair.
_TRUNCATED = "Input data was truncated"
_decode_any = msgspec.json.Decoder().decode
# `json.loads` calls this; its own errors take longer to make than a short value takes to parse.
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # the stubs lack it


class Refusal(msgspec.Struct, frozen=True):
    """The reason for which a record is refused: a code for programs, a message for people, and the wrong field."""

    code: str
    stage: RefusalStage
    message: str
    field: str = ""


NO_KEY = Refusal("no_key", "validate", 'the record has no key; with scope = "key" each needs one', "key")

CODES = {
    "no_value": "The record has no value (a tombstone), or only white space.",
    "not_utf8": "The value is not UTF-8 text.",
    "not_json": "The value is not JSON (RFC 8259). NaN, Infinity and very deep nesting are not accepted.",
    "not_framed": "The value, or the header `__value_schema_id`, does not name its schema.",
    "unknown_schema": "The schema registry has no schema with the id that the value names.",
    "not_decodable": "The value is not of the schema that it names.",
    "not_object": "The value is JSON, but not an object.",
    "missing_field": "A required field is missing: `features`, or a feature that the schema requires.",
    "wrong_type": "A field has the wrong type, such as a nested feature, a null, or an object as an id.",
    "not_finite": "A number is too large for a double, such as 1e999.",
    "out_of_range": "An integer is too large for a double, a time is negative, or a value is outside its range.",
    "bad_time": "The event time is no time in the unit of `records.ts_unit`.",
    "transform_failed": "`records.transform` raised an error, or returned something else than a record or None.",
    "unknown_feature": "The schema does not declare the feature, and `schema.extra` is false.",
    "no_key": 'The record has no key, but each key has its own model (scope = "key"). An empty key is a key.',
    "too_large": "The value exceeds `records.value_bytes_max`, or the prediction exceeds the limit of its topic.",
    "bad_label": "A model of this task can't learn from the label.",
    "learn_failed": "The model raised an error on this record. The model is unchanged.",
    "sink_refused": "The HTTP sink answered 400 or 422 to this record's prediction.",
}
"""Every code of a dead letter and what it means, for docs/dead-letters.md."""


def read_json(value: bytes | None, decode: Callable[[bytes], Any], *, bytes_max: int, faults: Faults) -> Any:
    """Decode a record's value with a typed msgspec decoder; return a Refusal for a wrong one."""
    if not value or len(value) > bytes_max:
        return refuse_size(value, bytes_max)
    try:
        # msgspec skips unknown fields without a check that they are UTF-8.
        if not value.isascii():
            value.decode()
        found = decode(value)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return _diagnose(value, error, faults)
    if _may_have_huge_integer(value):
        refusal = _refuse_huge_integers(msgspec.structs.asdict(found))
        if refusal is not None:
            return refusal
    return found


def parse_json(value: bytes | None, *, bytes_max: int) -> Any:
    """Parse a record's value; return a Refusal for one that is not a JSON object.

    Numbers that overflow, and half of a surrogate pair, are left in: only fields that are read must have neither.
    """
    if not value or len(value) > bytes_max:
        return refuse_size(value, bytes_max)
    try:
        if not value.isascii():
            value.decode()
        found = _decode_any(value)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        found = _parse_again(value, error)
    return found if isinstance(found, dict | Refusal) else _refuse_other(found)


def refuse_ts(ts: Any, field: str = "ts") -> Refusal | None:
    """Return the refusal of an invalid event time; None for a valid one, or when it is not set."""
    if ts is msgspec.UNSET or 0 <= ts < 2**63:
        return None
    return Refusal("out_of_range", "validate", f"{field} is {ts}; it must be milliseconds since 1970", field)


def refuse_size(value: bytes | None, bytes_max: int) -> Refusal:
    """Return the refusal of a value that is not there, or is too large."""
    if not value:
        return Refusal("no_value", "decode", "the record has no value; a JSON object is needed")
    return Refusal(
        "too_large",
        "decode",
        f"the value has {len(value)} bytes; the limit is {bytes_max} (records.value_bytes_max)",
    )


def _diagnose(value: bytes, error: Exception, faults: Faults) -> Refusal:
    """Find out why `value` can't be decoded; `error` is the typed decoder's. Slow, and only for bad records."""
    whole = _parse_again(value, error)
    if isinstance(whole, Refusal):
        return whole
    if not isinstance(whole, dict):
        return _refuse_other(whole)
    for refusal in faults(whole):
        return refusal
    # The same name twice, first with a wrong value: msgspec checks both values, `json` keeps the last.
    code = "wrong_type" if isinstance(error, msgspec.ValidationError) else "not_json"
    return Refusal(code, "decode", f"the value can't be read: {error}")


def _refuse_other(whole: Any) -> Refusal:
    return Refusal("not_object", "decode", f"the value is {_kind(whole)}; a JSON object is needed")


def _parse_again(value: bytes, error: Exception) -> Any:
    """Parse a value that a decoder of msgspec refused with `error`, or say why it is no JSON."""
    if not value.strip():
        return Refusal("no_value", "decode", "the value is only white space; a JSON object is needed")
    try:
        text = value.decode()
    except UnicodeDecodeError as fault:
        byte = value[fault.start]
        return Refusal("not_utf8", "decode", f"byte {fault.start} (0x{byte:02x}) is not valid UTF-8")
    if isinstance(error, RecursionError):
        return Refusal("not_json", "decode", "the value is nested too deeply to be read")
    if str(error) == _TRUNCATED and "\\u" not in text:
        return Refusal("not_json", "decode", f"the value is not JSON: it breaks off after {len(text)} characters")
    return _parse(value, text, error)


def _parse(value: bytes, text: str, error: Exception) -> Any:
    """Parse as RFC 8259 says, but keep numbers that overflow, so that their field can be named."""
    if _may_have_huge_integer(value) or "NaN" in text or "Infinity" in text or text[0] == _BYTE_ORDER_MARK:
        return _parse_odd(text)
    if isinstance(error, msgspec.ValidationError):
        # Most likely it is JSON of another type. This decoder is faster than `json`, with the same result.
        try:
            return _decode_any(value)
        except (msgspec.DecodeError, ValueError, RecursionError):
            pass
    start = len(text) - len(text.lstrip(_WHITE_SPACE))
    try:
        whole, end = _scan(text, start)
    except StopIteration as fault:
        return _refuse_text(text, "Expecting value", fault.value)
    except RecursionError:
        return Refusal("not_json", "decode", "the value is nested too deeply to be read")
    except ValueError as fault:
        return Refusal("not_json", "decode", f"the value is not JSON: {fault}")
    end = len(text) - len(text[end:].lstrip(_WHITE_SPACE))
    return whole if end == len(text) else _refuse_text(text, "Extra data", end)


def _refuse_text(text: str, fault: str, position: int) -> Refusal:
    """Refuse text that is not JSON, in the same words as `json.JSONDecodeError`."""
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    where = f"line {line} column {column} (char {position})"
    return Refusal("not_json", "decode", f"the value is not JSON: {fault}: {where}")


def _parse_odd(text: str) -> Any:
    """Parse text that may have NaN, Infinity, or more digits than Python parses."""
    constants: list[str] = []

    def note(name: str) -> float:
        constants.append(name)
        return math.nan

    try:
        whole = json.loads(text, parse_constant=note, parse_int=_integer)
    except RecursionError:
        return Refusal("not_json", "decode", "the value is nested too deeply to be read")
    except ValueError as fault:
        return Refusal("not_json", "decode", f"the value is not JSON: {fault}")
    if constants:
        field = next((_path(*place) for place, leaf in _leaves(whole) if leaf != leaf), "")  # noqa: PLR0124 NaN only
        return Refusal(
            "not_json",
            "decode",
            f"{constants[0]} is not a JSON number (RFC 8259); leave the field out",
            field,
        )
    return whole


def leaf_faults(whole: dict[str, Any]) -> Iterator[Refusal]:
    """Yield refusals of the values, at any depth, that no record may have."""
    for place, leaf in _leaves(whole):
        if isinstance(leaf, float) and math.isinf(leaf):
            path = _path(*place)
            yield Refusal("not_finite", "decode", f"{path} is a number too large for a double", path)
        if isinstance(leaf, str) and not leaf.isascii() and not encodable(leaf):
            path = _path(*place)
            yield Refusal("not_json", "decode", f"{path} has half of a surrogate pair", path)
    huge = _refuse_huge_integers(whole)
    if huge is not None:
        yield huge


def _leaves(node: Any) -> Iterator[tuple[tuple[str, str | int], Any]]:
    """Walk a parsed value in its order, without recursion: deep nesting must not exhaust the stack.

    A leaf comes with the path of its parent and its name or index there; `_path` joins the two for the few that are
    refused.
    """
    stack: list[tuple[tuple[str, str | int], Any]] = [(("", ""), node)]
    while stack:
        place, node = stack.pop()
        if isinstance(node, dict):
            path = _path(*place)
            stack.extend(((path, name), node[name]) for name in reversed(node))
        elif isinstance(node, list):
            path = _path(*place)
            stack.extend(((path, index), node[index]) for index in reversed(range(len(node))))
        else:
            yield place, node


def _path(within: str, name: str | int) -> str:
    if isinstance(name, int):
        return f"{within}[{name}]"
    return f"{within}.{name}" if within else name


def _may_have_huge_integer(value: bytes) -> bool:
    if len(value) <= _DIGITS_MAX or _SAMPLED.search(value[::_STEP]) is None:
        return False
    return _HUGE_INTEGER.search(value) is not None


def _integer(digits: str) -> int:
    # Python refuses to parse more than 4,300 digits; any integer above the largest double is enough here.
    return int(digits) if len(digits.lstrip("-")) <= _DIGITS_MAX else 10 ** (_DIGITS_MAX + 1)


def _refuse_huge_integers(node: Any) -> Refusal | None:
    for place, leaf in _leaves(node):
        if isinstance(leaf, int):
            try:
                float(leaf)
            except OverflowError:
                path = _path(*place)
                return Refusal("out_of_range", "decode", f"{path} is an integer too large for a double", path)
    return None


def wrong_type(field: str, value: Any, wanted: str) -> Refusal:
    """Return the refusal of a field whose value has another type than the wanted one."""
    return Refusal("wrong_type", "decode", f"{field} is {_kind(value)}; it must be {wanted}", field)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, _NUMBER):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bytes | bytearray):
        return "bytes"
    if isinstance(value, list):
        return "an array"
    # A function of the user's may return any object of Python.
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


def encodable(text: str) -> bool:
    """Tell whether a text has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
