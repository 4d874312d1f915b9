"""Reads batches of Avro records to columns, as `fastjson.scan` reads JSON, and to the values of the decoder.

Records that the machine is not sure of are slow: the decoder reads them. Importing this module imports numba.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.consumers.fastjson.scan import Scan, Scanner
from headrace.consumers.formats import avro_machine
from headrace.consumers.formats.avro import AvroReader
from headrace.consumers.formats.avro_machine import DIGITS_MAX, PADDING, BinaryColumns
from headrace.consumers.formats.avro_program import (
    COLUMNS,
    ENUM,
    FEATURE,
    FIRST,
    ID,
    JUMP,
    LABEL,
    NAME,
    OPERATION,
    SKIP,
    TARGET,
    TIME,
    AvroCompiler,
    AvroProgram,
    Place,
    Unsuitable,
)
from headrace.consumers.formats.format_decoder import FormatDecoder
from headrace.consumers.formats.framing import HEADER, PREFIX_BYTES, schema_of
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.schema import Schema

_NO_PROGRAM, _UNKNOWN = -1, -2
_HEADS = ("slow", "id_at", "id_size", "ts", "label_kinds", "label_values")
# What the scanner of JSON gets in place of a value: it leaves it to the decoder.
_FOREIGN = b"-"


class _Linked:
    """The programs of all schemas that a batch met so far, one after another, with numbers of one vocabulary."""

    def __init__(self) -> None:
        self.starts: dict[str, int] = {}
        self.features_max = 0
        self.code = np.zeros((1, COLUMNS), np.int64)
        self.symbols = np.zeros(1, np.int64)

    def add(self, schema: str, program: AvroProgram, *, names: Sequence[int], symbols: Sequence[int]) -> None:
        """Add a program; its positions and numbers become those of the whole."""
        code, at = program.code.copy(), len(self.code)
        kinds = code[:, OPERATION]
        code[kinds == JUMP, FIRST] += at
        code[kinds == ENUM, FIRST] += len(self.symbols)
        is_feature = code[:, TARGET] == FEATURE
        code[is_feature, NAME] = np.array([*names, 0], np.int64)[code[is_feature, NAME]]
        self.code = np.concatenate([self.code, code])
        self.symbols = np.concatenate([self.symbols, np.array(symbols, np.int64)])
        self.starts[schema] = at
        self.features_max = max(self.features_max, len(names))


class BinaryScanner:
    """Read batches of Avro records as `decoder` does; `json` gives the vocabulary, and fills in slow records."""

    def __init__(self, decoder: FormatDecoder, json: Scanner) -> None:
        self._schemas = decoder.schemas
        self._mapping = decoder.mapping
        self._json = json
        self._schema = decoder.schema or Schema({})
        self._value_bytes_max = decoder.value_bytes_max
        self._programs: dict[str, AvroProgram | None] = {}
        self._linked = _Linked()
        self._generation = -1

    def scan(self, batch: RecordBatch) -> Scan:
        """Read the values of records; those that are not sure are slow."""
        values = batch.values
        base = self._json.scan_kept([_FOREIGN if value else b"" for value in values])
        if self._generation != base.vocabulary.generation:
            self._linked, self._generation = _Linked(), base.vocabulary.generation
        programs, skips = self._choose(batch)
        count = len(values)
        sizes = np.fromiter((len(value or b"") for value in values), np.int64, count)
        ends = np.cumsum(sizes)
        # The machine writes a quote behind a string for a moment.
        text = np.frombuffer(bytearray(b"".join([*(value or b"" for value in values), bytes(PADDING)])), np.uint8)
        columns = _columns(count, count * self._linked.features_max)
        linked, words, done = self._linked, base.vocabulary.word_numbers, 0
        while True:
            done = avro_machine.run(
                text, ends - sizes + skips, ends, programs, linked.code, linked.symbols, columns,
                words.table, self._json.rules, done,
            )  # fmt: skip
            if done == count:
                break
            words.grow()
        used = columns.starts[-1]
        return base._replace(
            text=np.concatenate([text, columns.digits]),
            **{name: getattr(columns, name) for name in ("starts", *_HEADS)},
            **{name: getattr(columns, name)[:used] for name in ("names", "kinds", "values")},
        )

    def _choose(self, batch: RecordBatch) -> tuple[Any, Any]:
        """Return the first instruction of each record's program, and the length of the frame before its value."""
        table: dict[bytes, int] = {}
        refused_below = self._schemas.refused_below(batch.partition)
        programs, skips = [], []
        for position, value in enumerate(batch.values):
            prefix = value[:PREFIX_BYTES] if value else b""
            headers = None if batch.headers is None else batch.headers[position]
            is_named = headers is not None and any(name == HEADER for name, _ in headers)
            if not prefix or is_named or len(value or b"") > self._value_bytes_max:
                program = _NO_PROGRAM
            elif (program := table.get(prefix, _UNKNOWN)) == _UNKNOWN:
                program = table[prefix] = self._program(schema_of(prefix, None))
            if refused_below and batch.offsets[position] < refused_below:
                program = _NO_PROGRAM
            programs.append(program)
            skips.append(0 if program == _NO_PROGRAM else PREFIX_BYTES)
        return np.array(programs, np.int64), np.array(skips, np.int64)

    def _program(self, schema: str | None) -> int:
        """Return the first instruction of a schema's program, or -1 if it has none."""
        if schema is None:
            return _NO_PROGRAM
        if schema not in self._programs:
            self._programs[schema] = self._compile(self._schemas.known.get(schema))
        program = self._programs[schema]
        if program is None:
            return _NO_PROGRAM
        if schema not in self._linked.starts:
            vocabulary = self._json.vocabulary
            names = vocabulary.name_numbers.numbers(program.names)
            self._linked.add(schema, program, names=names, symbols=vocabulary.word_numbers.numbers(program.symbols))
        return self._linked.starts[schema]

    def _compile(self, parsed: Any) -> AvroProgram | None:
        mapping = self._mapping
        if not isinstance(parsed, AvroReader) or mapping is None or mapping.numbers == "parse":
            return None
        sources = {path.source for path in (mapping.id_path, mapping.ts_path, mapping.label_path)}
        if not sources <= {"value", "nowhere"}:
            return None
        places = _Places(mapping)
        try:
            program = AvroCompiler(
                parsed.schema, places.find, nulls=self._null_action, ts_unit=mapping.ts_unit
            ).compile()
        except (Unsuitable, RecursionError):
            return None
        return program if places.has_features else None

    def _null_action(self, name: str) -> int:
        if self._schema.is_nullable(name):
            return 2
        return 1 if self._mapping is not None and self._mapping.nulls == "skip" else 0


class _Places:
    """Say what becomes of the fields of a schema, by a mapping."""

    def __init__(self, mapping: RecordMapping) -> None:
        self._mapping = mapping
        self.has_features = False
        paths = ((mapping.id_path, ID), (mapping.ts_path, TIME), (mapping.label_path, LABEL))
        self._own = {path.names: target for path, target in paths if path.source == "value"}

    def find(self, path: tuple[str, ...]) -> Place:
        """Return what becomes of the field at a path. Raises Unsuitable where the decoder must tell."""
        mapping, above = self._mapping, self._mapping.features_path
        is_inside = len(path) > len(above) and path[: len(above)] == above
        self.has_features = self.has_features or is_inside
        if any(path == names[: len(path)] and len(names) > len(path) for names in (*self._own, above)):
            # The field should be an object, and holds a plain value.
            raise Unsuitable
        if (target := self._own.get(path)) is not None:
            return Place(target)
        if not is_inside:
            return Place(SKIP)
        below = path[len(above) :]
        if not mapping.flatten and len(below) > 1:
            if mapping.takes(below[0]):
                raise Unsuitable
            return Place(SKIP)
        outer = (".".join(below[:size]) for size in range(1, len(below)))
        name = ".".join(below)
        if any(map(mapping.leaves_out, outer)) or not mapping.takes(name):
            return Place(SKIP)
        return Place(FEATURE, name)


def warm() -> None:
    """Compile the machine, which takes seconds, or load it from the cache."""
    json = Scanner()
    nothing = np.zeros(0, np.int64)
    avro_machine.run(
        np.zeros(PADDING, np.uint8), nothing, nothing, nothing, np.zeros((1, COLUMNS), np.int64), nothing,
        _columns(0, 0), json.vocabulary.word_numbers.table, json.rules, 0,
    )  # fmt: skip


def _columns(count: int, entries_max: int) -> BinaryColumns:
    return BinaryColumns(
        starts=np.zeros(count + 1, np.int64),
        names=np.empty(entries_max, np.int32),
        kinds=np.empty(entries_max, np.int8),
        values=np.empty(entries_max, np.float64),
        slow=np.empty(count, np.bool_),
        id_at=np.empty(count, np.int64),
        id_size=np.empty(count, np.int64),
        ts=np.empty(count, np.int64),
        label_kinds=np.empty(count, np.int8),
        label_values=np.empty(count, np.float64),
        digits=np.empty(count * DIGITS_MAX, np.uint8),
    )
