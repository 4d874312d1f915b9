"""Reads batches of Avro and Protobuf records to columns, as `fastjson.scan` reads JSON, and to the decoder's values.

Records that the machines are not sure of are slow: the decoder reads them. Importing this module imports numba.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.consumers.fastjson.scan import Scan, Scanner
from headrace.consumers.formats.avro import AvroReader
from headrace.consumers.formats.batch_frames import frames
from headrace.consumers.formats.binary.avro_program import AvroCompiler, AvroProgram
from headrace.consumers.formats.binary.linked import Frames, LinkedAvro, LinkedPrograms, LinkedProtobuf
from headrace.consumers.formats.binary.places import FieldPlaces, Unsuitable
from headrace.consumers.formats.binary.protobuf_program import ProtobufCompiler, ProtobufProgram
from headrace.consumers.formats.binary.values import DIGITS_MAX, PADDING, BinaryColumns
from headrace.consumers.formats.format_decoder import FormatDecoder
from headrace.consumers.formats.framing import Frame
from headrace.consumers.formats.protobuf import ProtobufReader
from headrace.consumers.formats.writer_schema import NotDecodable, SchemaKind
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.schema import Schema

_NO_PROGRAM = -1
_HEADS = ("slow", "id_at", "id_size", "ts", "label_kinds", "label_values")
# What the scanner of JSON gets in place of a value: it leaves it to the decoder.
_FOREIGN = b"-"

_MessageId = tuple[str, tuple[int, ...]]
"""The id of a schema, and the indexes of its message."""
_Program = AvroProgram | ProtobufProgram


class BinaryScanner:
    """Read batches of Avro or Protobuf as `decoder` does; `json` gives the vocabulary, and fills in slow records."""

    def __init__(self, decoder: FormatDecoder, json: Scanner) -> None:
        self._schemas = decoder.schemas
        self._has_indexes = decoder.schemas.kind == "PROTOBUF"
        self._mapping = decoder.mapping if decoder.mapping is not None and _is_read(decoder.mapping) else None
        self._json = json
        self._schema = decoder.schema or Schema({})
        self._value_bytes_max = decoder.value_bytes_max
        self._programs: dict[_MessageId, _Program | None] = {}
        self._generation = -1
        self._begin(-1)

    def scan(self, batch: RecordBatch) -> Scan:
        """Read the values of records; those that are not sure are slow."""
        values = batch.values
        base = self._json.scan_kept([_FOREIGN if value else b"" for value in values])
        if self._generation != base.vocabulary.generation:
            self._begin(base.vocabulary.generation)
        rows, count = [value or b"" for value in values], len(values)
        sizes = np.fromiter(map(len, rows), np.int64, count)
        # The machine writes a quote behind a string for a moment.
        text = np.frombuffer(bytearray(b"".join([*rows, bytes(PADDING)])), np.uint8)
        frames = self._frames(batch, rows, text, sizes)
        columns = _columns(count, count * self._linked.features_max)
        words, done = base.vocabulary.word_numbers, 0
        while True:
            done = self._linked.run(text, frames, columns, words=words.table, rules=self._json.rules, first=done)
            if done == count:
                break
            words.grow()
        used = columns.starts[-1]
        return base._replace(
            text=np.concatenate([text, columns.digits]),
            **{name: getattr(columns, name) for name in ("starts", *_HEADS)},
            **{name: getattr(columns, name)[:used] for name in ("names", "kinds", "values")},
        )

    def _begin(self, generation: int) -> None:
        """Begin with the numbers of a new vocabulary."""
        self._generation = generation
        self._linked = _linked(self._schemas.kind)
        self._begins: dict[_MessageId, int] = {}

    def _frames(self, batch: RecordBatch, rows: Sequence[bytes], text: Any, sizes: Any) -> Frames:
        """Find the program of each record, by its frame."""
        ends = np.cumsum(sizes)
        begins = ends - sizes
        programs = np.full(len(rows), _NO_PROGRAM, np.int64)
        if self._mapping is None:
            return begins, ends, programs
        fits = (sizes > 0) & (sizes <= self._value_bytes_max)
        if refused_below := self._schemas.refused_below(batch.partition):
            fits &= np.array(batch.offsets) >= refused_below
        for frame, size, positions in frames(batch, rows, text, begins, fits, has_indexes=self._has_indexes):
            programs[positions] = self._program(frame)
            begins[positions] += size
        return begins, ends, programs

    def _program(self, frame: Frame) -> int:
        """Return where the program of a frame's schema begins, or -1 if it has none."""
        message, parsed = (frame.schema, frame.indexes), self._schemas.known.get(frame.schema)
        if parsed is None:
            return _NO_PROGRAM
        if message not in self._programs:
            self._programs[message] = self._compile(parsed, frame.indexes)
        program = self._programs[message]
        if program is None:
            return _NO_PROGRAM
        if message not in self._begins:
            vocabulary = self._json.vocabulary
            known = [symbol for symbol in program.symbols if symbol is not None]
            words = dict(zip(known, vocabulary.word_numbers.numbers(known), strict=True))
            names = vocabulary.name_numbers.numbers(program.names)
            symbols = [-1 if symbol is None else words[symbol] for symbol in program.symbols]
            self._begins[message] = self._linked.add(program, names=names, symbols=symbols)
        return self._begins[message]

    def _compile(self, parsed: Any, indexes: tuple[int, ...]) -> _Program | None:
        assert self._mapping is not None
        places, ts_unit = FieldPlaces(self._mapping), self._mapping.ts_unit
        try:
            if isinstance(parsed, ProtobufReader):
                return ProtobufCompiler(parsed.schema.message(indexes), places, ts_unit=ts_unit).compile()
            if isinstance(parsed, AvroReader):
                program = AvroCompiler(parsed.schema, places.find, nulls=self._null_action, ts_unit=ts_unit).compile()
                return program if places.has_features else None
        except (Unsuitable, NotDecodable, RecursionError):
            pass
        return None

    def _null_action(self, name: str) -> int:
        if self._schema.is_nullable(name):
            return 2
        return 1 if self._mapping is not None and self._mapping.nulls == "skip" else 0


def _is_read(mapping: RecordMapping) -> bool:
    """Tell whether the machines can follow a mapping: all fields are in the value, and no text is parsed."""
    sources = {path.source for path in (mapping.id_path, mapping.ts_path, mapping.label_path)}
    return mapping.numbers != "parse" and sources <= {"value", "nowhere"}


def warm(*kinds: SchemaKind) -> None:
    """Compile the machines of these kinds, which takes seconds, or load them from the cache."""
    json, nothing = Scanner(), np.zeros(0, np.int64)
    for kind in kinds:
        _linked(kind).run(
            np.zeros(PADDING, np.uint8), (nothing, nothing, nothing), _columns(0, 0),
            words=json.vocabulary.word_numbers.table, rules=json.rules, first=0,
        )  # fmt: skip


def _linked(kind: SchemaKind) -> LinkedPrograms:
    return LinkedProtobuf() if kind == "PROTOBUF" else LinkedAvro()


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
