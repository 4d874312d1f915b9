import enum
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from headrace.consumers.mapped_decoder import MappedDecoder
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.record import Event, Label, LabelRecord, Record, Skipped
from headrace.consumers.record_reader import Declared, LabelReader, RecordReader
from headrace.consumers.refusal import Refusal
from headrace.consumers.schema import Feature, Schema

MESSAGE = Record(0, 1, 5, b"k", b"{}", None)


class Colour(enum.StrEnum):
    RED = "red"


class Unspeakable(Exception):
    """Raised by a function of a user whose errors have no text."""

    def __str__(self) -> str:
        raise ValueError


class Moody(dict[str, Any]):
    def get(self, *_args: Any) -> Any:
        raise SystemExit(3)


def raising(error: BaseException) -> Callable[[Any], Any]:
    def transform(_whole: Any) -> Any:
        raise error

    return transform


def endless(_whole: Any) -> Any:
    label: list[Any] = []
    label.append(label)
    return {"features": {}, "label": label}


def transformed(transform: Callable[[dict[str, Any]], Any], value: bytes | None = b"{}", **mapping: Any) -> Any:
    decoder = MappedDecoder(RecordMapping(**mapping), transform=transform)
    return decoder.decode(msgspec.structs.replace(MESSAGE, value=value))


def test_a_transform_makes_the_default_form_of_a_value() -> None:
    def transform(order: dict[str, Any]) -> Any:
        if order["state"] == "draft":
            return None
        return {"id": order["number"], "ts": 5, "features": {"total": sum(order["prices"])}, "label": order.get("bad")}

    value = b'{"number": 7, "state": "%s", "prices": [1.5, 2]}'
    assert transformed(transform, value % b"sent") == Event({"total": 3.5}, "7", 5)
    assert isinstance(transformed(transform, value % b"draft"), Skipped)
    found = transformed(transform, b'{"number": 7, "state": "sent"}')
    assert isinstance(found, Refusal)
    assert (found.code, found.stage) == ("transform_failed", "decode")
    assert found.message == "records.transform raised KeyError: 'prices'"


def test_patterns_and_the_schema_apply_to_what_a_transform_returns() -> None:
    made = {"features": {"a": 1, "b": [1], "c": None, "n": "1.5"}}
    schema = Schema({"n": Feature(), "z": Feature(required=False)})
    mapping = RecordMapping(exclude=("b",), nulls="skip", numbers="parse")
    decoder = MappedDecoder(mapping, schema=schema, transform=lambda _: made)
    assert decoder.scans is None, "no scanner reads what only the function can make"
    assert decoder.decode(MESSAGE) == Event({"a": 1, "n": 1.5})
    found = MappedDecoder(mapping, schema=Schema({"q": Feature()}), transform=lambda _: made).decode(MESSAGE)
    assert isinstance(found, Refusal)
    assert (found.code, found.stage, found.field) == ("missing_field", "validate", "features.q")


def test_numbers_of_numpy_and_of_subclasses_become_plain_ones() -> None:
    made = {"features": {"a": np.float64(0.5), "b": np.int64(2), "c": np.bool_(True), "d": Colour.RED, "e": True}}
    found = transformed(lambda _: made)
    assert found == Event({"a": 0.5, "b": 2, "c": True, "d": "red", "e": True})
    assert [type(value) for value in found.features.values()] == [float, int, bool, str, bool]


@pytest.mark.parametrize(
    ("transform", "field", "words"),
    [
        (raising(ZeroDivisionError("by zero")), "", "ZeroDivisionError: by zero"),
        (raising(SystemExit(2)), "", "SystemExit: 2"),
        (raising(RecursionError()), "", "RecursionError"),
        (raising(Unspeakable()), "", "raised Unspeakable"),
        (endless, "", "RecursionError"),
        (lambda _: Moody(), "", "SystemExit: 3"),
        (lambda _: 17, "", "it is a int"),
        (lambda _: {}, "features", "the field `features` is missing"),
        (lambda _: {"features": None}, "features", "features is null"),
        (lambda _: {"features": {"a": {"b": 1}}}, "features.a", "features.a is an object"),
        (lambda _: {"features": {"a": float("nan")}}, "features.a", "features.a is NaN"),
        (lambda _: {"features": {"a": float("inf")}}, "features.a", "too large"),
        (lambda _: {"features": {"a": 10**400}}, "features.a", "too large"),
        (lambda _: {"features": {"a": "\ud800"}}, "features.a", "surrogate"),
        (lambda _: {"features": {"a": b"x"}}, "features.a", "features.a is bytes"),
        (lambda _: {"features": {"a": np.array([1, 2])}}, "features.a", "features.a is a ndarray"),
        (lambda _: {"features": {1: 2}}, "features", "the name 1 of a feature is not text"),
        (lambda _: {"features": {}, "id": []}, "id", "id is an array"),
        (lambda _: {"features": {}, "ts": "soon"}, "ts", "ts is 'soon'"),
        (lambda _: {"features": {}, "ts": -1}, "ts", "ts is -1"),
        (lambda _: {"features": {}, "label": float("inf")}, "label", "too large"),
    ],
)
def test_a_transform_that_fails_refuses_the_record_and_stops_nothing(
    transform: Callable[[Any], Any], field: str, words: str
) -> None:
    found = transformed(transform)
    assert isinstance(found, Refusal), found
    assert (found.code, found.stage, found.field) == ("transform_failed", "decode", field)
    assert words in found.message


@pytest.mark.parametrize("value", [None, b"", b" ", b"null", b"[1]", b"{"])
def test_a_transform_is_not_called_for_what_is_no_object(value: bytes | None) -> None:
    called: list[Any] = []
    assert isinstance(transformed(called.append, value), Refusal)
    skips = isinstance(transformed(called.append, value, empty="skip"), Skipped)
    assert skips == (value in {None, b"", b" ", b"null"})
    assert called == []


def test_a_deep_value_is_flattened_without_recursion() -> None:
    whole: dict[str, Any] = {"a": 1}
    for _ in range(2 * sys.getrecursionlimit()):
        whole = {"a": whole}
    mapping = RecordMapping(features="", flatten=True, id="", ts="", label="")
    found = RecordReader(mapping).read(whole, MESSAGE)
    assert isinstance(found, Refusal), "its names would have millions of characters"
    assert found.code == "too_large"


def test_the_types_of_a_writers_schema_decide_over_the_unit_and_declare_numbers() -> None:
    mapping = RecordMapping(features="row", ts="row.at", ts_unit="iso", numbers="parse", id="", label="")
    reader = RecordReader(mapping)
    assert reader.read({"row": {"at": 5.75}}, MESSAGE, Declared({"row.at": "milliseconds"})) == Event({}, ts=5)
    assert reader.read({"row": {"at": 2}}, MESSAGE, Declared({"row.at": "days"})) == Event({}, ts=172_800_000)
    numeric = Declared({"row.n": "number"})
    assert reader.read({"row": {"n": "1.5", "s": "1.5"}}, MESSAGE, numeric) == Event({"n": 1.5, "s": "1.5"})
    found = reader.read({"row": {"b": b"x"}}, MESSAGE)
    assert isinstance(found, Refusal)
    assert (found.code, found.field) == ("wrong_type", "b")


def test_a_number_without_a_text_of_its_own_is_an_id_as_json_writes_it() -> None:
    reader = RecordReader(RecordMapping(features="", id="n"))
    ids = {2**70: str(2**70), 1.5: "1.5", 1e100: "1e100"}
    for number, text in ids.items():
        assert reader.read({"n": number}, MESSAGE) == Event({}, text)
    labels = LabelReader(RecordMapping(id="n", label="l"))
    assert labels.read({"n": 0.5, "l": 1}, LabelRecord(0, 0, 0, None, b"", None)) == Label("0.5", 1)
