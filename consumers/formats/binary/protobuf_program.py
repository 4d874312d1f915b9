"""Compiles a Protobuf message to a table with which compiled code reads messages to columns, without objects.

The table has a row for each field, in the order in which `ProtobufReader` gives fields; fields come in any order in a
message. The machine accepts only records that `ProtobufReader` and the mapping read to the same values. Where that is
not certain, as with a repeated field that is not empty, the record is slow: the decoder reads it.
"""

from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.formats.binary.places import (
    FEATURE,
    ID,
    LABEL,
    SKIP,
    TIME,
    TIME_UNITS,
    FieldPlaces,
    Place,
    Unsuitable,
)
from headrace.consumers.formats.protobuf import WRAPPERS

(
    END, MESSAGE, ABSENT, CHOICE, BOOL, INT32, INT64, UINT32, UINT64, SINT32, SINT64, ENUM, FIXED32, SFIXED32, FIXED64,
    SFIXED64, FLOAT, DOUBLE, STRING, BYTES, TIMESTAMP,
) = range(21)  # fmt: skip
"""What a row is: the end of the table, a message, a field that makes its record slow, a oneof, or the type of a value.

The first row is the whole message, and the rows of a message follow its own.
"""
OPERATION, TARGET, NAME, FIRST, SECOND, WIRE, PRESENCE, PARENT, ONEOF = range(9)
"""The columns of a row. `NAME` is the number of a feature's name.

`FIRST` and `SECOND` are of a message the place of its fields in `dispatch` and their number, of an enum the place of
its symbols and their number, of a string the place of the empty one among the symbols, and of a time the factor and
the divisor that make milliseconds. `NAME` of the first row is
the row of the message that holds the features. `PARENT` is the row of the message around the field, and `ONEOF` that
of the oneof to which it belongs, or -1.
"""
COLUMNS = 9
EXPLICIT, IMPLICIT, REQUIRED = range(3)
"""What it means that a field is not written: it is not there, it is zero, or the message is not valid."""
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5
"""The wire types."""
DEPTH_MAX = 32
"""How deep messages may nest in a table."""

_ROWS_MAX = 2_000
_NUMBER_MAX = 4_096
_SYMBOLS_MAX = 1_024
_TIMES = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration"})
# Their values are JSON, or have no fields of fixed names.
_OPAQUE = frozenset(
    {"confluent.type.Decimal", *(f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue"))}
)
_WRAPPED = frozenset(f"google.protobuf.{name}" for name in WRAPPERS)
# By the number that descriptor.proto gives a type.
_OPERATIONS = {
    1: DOUBLE, 2: FLOAT, 3: INT64, 4: UINT64, 5: INT32, 6: FIXED64, 7: FIXED32, 8: BOOL, 9: STRING, 12: BYTES,
    13: UINT32, 14: ENUM, 15: SFIXED32, 16: SFIXED64, 17: SINT32, 18: SINT64,
}  # fmt: skip
_INTEGERS = frozenset({INT32, INT64, UINT32, UINT64, SINT32, SINT64, FIXED32, SFIXED32, FIXED64, SFIXED64})
_WIRES = {
    **dict.fromkeys((BOOL, INT32, INT64, UINT32, UINT64, SINT32, SINT64, ENUM), VARINT),
    **dict.fromkeys((FIXED64, SFIXED64, DOUBLE), EIGHT_BYTES),
    **dict.fromkeys((FIXED32, SFIXED32, FLOAT), FOUR_BYTES),
}


class ProtobufProgram(NamedTuple):
    """A table, the rows of fields by message and number, and the strings that it needs as numbers.

    `symbols` are the names of enums by number, with None for a number that has no name.
    """

    code: Any
    dispatch: list[int]
    names: list[str]
    symbols: list[str | None]


class ProtobufCompiler:
    """Compile one message, with the `places` of its fields and the unit of a time that is an integer."""

    def __init__(self, message: Any, places: FieldPlaces, *, ts_unit: str) -> None:
        self._message = message
        self._places = places
        self._ts_unit = ts_unit
        self._code: list[list[int]] = []
        self._dispatch: list[int] = []
        self._features = -1
        self._names: list[str] = []
        self._symbols: list[str | None] = []

    def compile(self) -> ProtobufProgram:
        """Return the program. Raises Unsuitable."""
        row = self._add(MESSAGE)
        self._add_fields(self._message, row, (), (), is_read=True)
        self._add(END)
        if self._features < 0 or len(set(self._names)) < len(self._names):
            raise Unsuitable
        self._code[row][NAME] = self._features
        code = np.array(self._code, np.int64).reshape(-1, COLUMNS)
        return ProtobufProgram(code, self._dispatch, self._names, self._symbols)

    def _add(self, operation: int, parent: int = -1, presence: int = EXPLICIT, oneof: int = -1) -> int:
        """Add a row and return its number."""
        if len(self._code) > _ROWS_MAX:
            raise Unsuitable
        self._code.append([operation, SKIP, -1, 0, 1, _WIRES.get(operation, LENGTH), presence, parent, oneof])
        return len(self._code) - 1

    def _add_fields(
        self, message: Any, row: int, path: tuple[str, ...], outer: tuple[Any, ...], *, is_read: bool
    ) -> None:
        """Add the fields of a message that has this row. The values of one that is not read are only checked."""
        if is_read and self._places.are_features(path):
            self._features = row
        numbers: dict[int, int] = {}
        choices: dict[str, int] = {}
        for field in message.fields:
            choice = field.containing_oneof
            oneof = -1
            if choice is not None and len(choice.fields) > 1:
                oneof = choices.get(choice.name, -1)
                oneof = choices[choice.name] = self._add(CHOICE, row) if oneof < 0 else oneof
            inner = (*path, field.name)
            numbers[field.number] = self._add_field(field, row, oneof, inner, (*outer, message), is_read=is_read)
        # The row of a field with a larger number is not found, so its record is slow.
        size = max((number for number in numbers if number <= _NUMBER_MAX), default=0) + 1
        self._link(row, [numbers.get(number, -1) for number in range(size)])

    def _link(self, row: int, rows: list[int]) -> None:
        """Note the rows of a message's fields by their numbers."""
        self._code[row][FIRST], self._code[row][SECOND] = len(self._dispatch), len(rows)
        self._dispatch += rows

    def _add_field(
        self, field: Any, parent: int, oneof: int, path: tuple[str, ...], outer: tuple[Any, ...], *, is_read: bool
    ) -> int:
        """Add a field and return its row."""
        presence = REQUIRED if field.is_required else EXPLICIT if field.has_presence else IMPLICIT
        message = field.message_type
        if field.is_repeated:
            # The decoder always gives a list; only an empty one that is flattened is good.
            target = self._places.find(path).target if is_read else SKIP
            if target != SKIP and not (target == FEATURE and self._places.flattens(path)):
                raise Unsuitable
            return self._add(ABSENT, parent)
        if message is None or message.full_name in _TIMES:
            place = self._places.find(path) if is_read else Place(SKIP)
            row = self._add(self._operation(field, place), parent, presence, oneof)
            self._place(row, field, place)
            return row
        is_wrapper = message.full_name in _WRAPPED
        is_opaque = message.full_name in _OPAQUE or message in outer or len(outer) > DEPTH_MAX
        if is_opaque or field.type == field.TYPE_GROUP or (is_read and not is_wrapper and self._places.refuses(path)):
            return self._add(ABSENT, parent, presence)
        row = self._add(MESSAGE, parent, presence, oneof)
        if is_wrapper:
            value = self._add_field(message.fields[0], row, -1, path, outer, is_read=is_read)
            self._link(row, [-1, value])
        else:
            self._add_fields(message, row, path, outer, is_read=is_read)
        return row

    def _operation(self, field: Any, place: Place) -> int:
        """Return the type of a value. Raises Unsuitable for one that the decoder refuses, or reads in another way."""
        if field.message_type is not None:
            if place.target in {ID, LABEL}:
                raise Unsuitable
            return TIMESTAMP
        operation = _OPERATIONS[field.type]
        is_integer = operation in _INTEGERS
        if operation == BYTES and place.target != SKIP:
            raise Unsuitable
        if place.target == TIME and not (is_integer and self._ts_unit in TIME_UNITS):
            raise Unsuitable
        if place.target == ID and not (is_integer or operation == STRING):
            raise Unsuitable
        return operation

    def _place(self, row: int, field: Any, place: Place) -> None:
        """Write what becomes of a value, and the operands."""
        code = self._code[row]
        code[TARGET] = place.target
        if place.target == FEATURE:
            code[NAME] = len(self._names)
            self._names.append(place.name)
        if code[OPERATION] == ENUM:
            names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
            count = max((number for number in names if number < _SYMBOLS_MAX), default=-1) + 1
            code[FIRST], code[SECOND] = len(self._symbols), count
            self._symbols += [names.get(number) for number in range(count)]
        elif code[OPERATION] == STRING and place.target != SKIP:
            # The word of a field that is not written.
            code[FIRST] = len(self._symbols)
            self._symbols.append("")
        elif place.target == TIME and code[OPERATION] != TIMESTAMP:
            code[FIRST], code[SECOND] = TIME_UNITS[self._ts_unit]
