"""Compiles an Avro schema to a program that reads records to columns, without an object for each record.

A program is a list of instructions, one for each value in the order in which Avro writes them; a union is a jump. The
machine that runs it accepts only records that `AvroReader` and the mapping read to the same values. Where that is not
certain the record is slow: the decoder reads it. A schema with an array, a map or a record inside itself among its
features has no program, so all its records are slow.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.formats.avro import DEPTH_MAX, PARTS, AvroSchema, declared_type
from headrace.consumers.formats.binary.places import (
    FEATURE,
    ID,
    LABEL,
    SKIP,
    TIME,
    TIME_UNITS,
    FindPlace,
    Place,
    Unsuitable,
)
from headrace.consumers.formats.writer_schema import NODES_MAX

(
    END, JUMP, UNION, NULL, BOOLEAN, INT, LONG, FLOAT, DOUBLE, STRING, ENUM, BYTES, FIXED, COUNT,
) = range(14)  # fmt: skip
"""The instructions. `COUNT` reads the block of an array or a map that must be empty."""
OPERATION, TARGET, NAME, FIRST, SECOND = range(5)
"""The columns of an instruction. `FIRST` and `SECOND` are the operands, named where an instruction is added.

`NAME` is the number of a feature's name; of a time it is 1 if the decoder divides it without rounding.
"""
COLUMNS = 5
DAY_MS = 86_400_000


class AvroProgram(NamedTuple):
    """A program, and the strings that it needs as numbers: `names` of features, and the `symbols` of enums."""

    code: Any
    names: list[str]
    symbols: list[str]


class AvroCompiler:
    """Compile one schema. `nulls` says what becomes of a feature that is null: 0 slow, 1 left out, 2 kept."""

    def __init__(self, schema: AvroSchema, find: FindPlace, *, nulls: Callable[[str], int], ts_unit: str) -> None:
        self._schema = schema
        self._find = find
        self._nulls = nulls
        self._ts_unit = ts_unit
        self._code: list[list[int]] = []
        self.names: list[str] = []
        self.symbols: list[str] = []

    def compile(self) -> AvroProgram:
        """Return the program. Raises Unsuitable."""
        top = self._schema.resolve(self._schema.parsed)
        if isinstance(top, list) or top["type"] != "record":
            raise Unsuitable
        self._add_type(top, (), 0)
        self._add(END)
        if len(set(self.names)) < len(self.names):
            raise Unsuitable
        return AvroProgram(np.array(self._code, np.int64).reshape(-1, COLUMNS), self.names, self.symbols)

    def _add(self, operation: int, place: Place | None = None, first: int = 0, second: int = 0) -> int:
        """Add an instruction and return its number; a feature gets a number for its name. Raises Unsuitable."""
        if len(self._code) > NODES_MAX:
            raise Unsuitable
        name = -1
        if place is not None and place.target == FEATURE:
            # A union names its feature once for each branch.
            if not self.names or self.names[-1] != place.name:
                self.names.append(place.name)
            name = len(self.names) - 1
        self._code.append([operation, SKIP if place is None else place.target, name, first, second])
        return len(self._code) - 1

    def _add_type(self, node: Any, path: tuple[str, ...], depth: int) -> None:
        schema = self._schema.resolve(node)
        if depth > DEPTH_MAX:
            raise Unsuitable
        if isinstance(schema, list):
            self._add_union(schema, path, depth)
        elif schema["type"] in {"record", "error"}:
            if not schema["fields"]:
                raise Unsuitable
            for field in schema["fields"]:
                self._add_type(field["type"], (*path, field["name"]), depth + 1)
        else:
            self._add_leaf(schema, self._find(path))

    def _add_union(self, branches: list[Any], path: tuple[str, ...], depth: int) -> None:
        """Add a jump for each branch, then the branches; each ends with a jump behind them all."""
        self._add(UNION, None, len(branches))
        table = [self._add(JUMP) for _ in branches]
        ends, nulls, inner = [], [], False
        has_record = any(map(self._is_record, branches))
        for number, branch in zip(table, branches, strict=True):
            begin = self._code[number][FIRST] = len(self._code)
            if has_record and self._schema.resolve(branch) == {"type": "null"}:
                nulls.append(self._add(NULL, None, 1))
            else:
                self._add_type(branch, path, depth + 1)
            is_used = any(row[TARGET] != SKIP for row in self._code[begin:])
            inner = inner or (is_used and self._is_record(branch))
            ends.append(self._add(JUMP))
        if inner and len(branches) > 1 + len(nulls):
            # Which fields there are depends on the branch: not worth a program.
            raise Unsuitable
        for number in nulls if inner else ():
            self._code[number] = [NULL, SKIP, -1, 0, 0]
        for number in ends:
            self._code[number][FIRST] = len(self._code)

    def _is_record(self, node: Any) -> bool:
        schema = self._schema.resolve(node)
        return isinstance(schema, dict) and schema["type"] in {"record", "error"}

    def _add_leaf(self, schema: Any, place: Place) -> None:
        kind = schema["type"]
        if kind == "null":
            # An id, a time or a label that is null is left to the decoder.
            action = self._nulls(place.name) if place.target == FEATURE else int(place.target == SKIP)
            self._add(NULL, place, action)
        elif kind in {"array", "map"}:
            if place.target != SKIP:
                raise Unsuitable
            self._add(COUNT)
        elif kind in {"int", "long"}:
            self._add_integer(schema, place)
        elif kind == "enum":
            first = len(self.symbols)
            self.symbols += schema["symbols"]
            self._refuse_target(place, TIME)
            self._add(ENUM, place, first, len(schema["symbols"]))
        elif kind in {"bytes", "fixed"}:
            if place.target != SKIP:
                raise Unsuitable
            self._add(BYTES if kind == "bytes" else FIXED, place, schema.get("size", 0))
        else:
            operation = {"boolean": BOOLEAN, "float": FLOAT, "double": DOUBLE, "string": STRING}[kind]
            self._refuse_target(place, TIME)
            if kind != "string":
                self._refuse_target(place, ID)
            self._add(operation, place)

    def _add_integer(self, schema: Any, place: Place) -> None:
        """Add an integer: the operands make milliseconds of a time, or divide a feature into parts."""
        parts = PARTS.get(schema.get("logicalType"), 1) if schema["type"] == "long" else 1
        declared = declared_type(schema)
        factor, divisor = 1, parts
        if place.target == TIME and declared == "days":
            factor = DAY_MS
        elif place.target == TIME and declared != "milliseconds":
            if self._ts_unit not in TIME_UNITS:
                raise Unsuitable
            factor, divisor = TIME_UNITS[self._ts_unit]
        elif place.target in {ID, LABEL} and parts > 1:
            raise Unsuitable
        number = self._add(INT if schema["type"] == "int" else LONG, place, factor, divisor)
        # The decoder reads a logical type as a double, which may lose parts of a millisecond.
        if place.target == TIME:
            self._code[number][NAME] = int(declared != "milliseconds")

    def _refuse_target(self, place: Place, target: int) -> None:
        if place.target == target:
            raise Unsuitable
