"""Reads the JSON of a batch of feature records into columns, in compiled code, without an object for each record.

It does not replace the decoder: a record that the scanner is not sure of is marked slow. The caller decodes it, and
`Scanner.fill` inserts the result into the columns. The other records have exactly the values that the decoder would
give them. Importing this module imports numba.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.fastjson.features import GUESSES, LEXER_NOTES, NAME_BYTES_MAX, LexerMemory, ScannedColumns
from headrace.consumers.fastjson.interner import STAMP, Interner
from headrace.consumers.fastjson.jit import PADDING
from headrace.consumers.fastjson.lexer import Heads, walk
from headrace.consumers.fastjson.mapping_arrays import ASKED, MARKED, MappingTree
from headrace.consumers.fastjson.number import BOOLEAN, EXACT_MAX, FLOAT, INTEGER, NULL, STRING, WIDE
from headrace.consumers.fastjson.outside import OutsideFields
from headrace.consumers.fastjson.schema_arrays import SchemaArrays, arrays_of
from headrace.consumers.fastjson.times import UNITS, read_times
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.record import VALUE_BYTES_MAX
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.schema import Feature, Schema

NAMES_MAX = 65_536
WORDS_MAX = 262_144
ARENA_BYTES_MAX = 16_777_216
"""With more names, words, or bytes of either, a new vocabulary begins before the next batch."""

# The shortest feature is `"":1,`, and `1,` in an array.
_FEATURE_BYTES_MIN, _ELEMENT_BYTES_MIN = 5, 2
_DEFAULT_MAPPING = RecordMapping()
_TS = 2
_KINDS: dict[type, int] = {int: INTEGER, float: FLOAT, bool: BOOLEAN, str: STRING, type(None): NULL}


class FeatureVocabulary:
    """The names of features and their string values (words), by number; both lists only grow."""

    def __init__(self, generation: int = 0) -> None:
        self.generation = generation
        self.name_numbers = Interner()
        self.word_numbers = Interner()

    @property
    def names(self) -> list[str]:
        """The names of features, by number."""
        return self.name_numbers.strings

    @property
    def words(self) -> list[str]:
        """The string values, by number."""
        return self.word_numbers.strings


class Scan(NamedTuple):
    """A batch of n records as columns: the features for the model, and each record's id, time and label.

    `text` (uint8) has the values of all records, each followed by a zero byte. `slow` (bool) marks the records that
    the decoder must read; they have no entries until they are filled in. `skipped` (bool) marks those that are
    skipped, which have no entries. Record i has the entries from `starts[i]` to
    `starts[i + 1]` (int64, n + 1) of `names` (int32), `kinds` (int8) and `values` (float64: 0 or 1 for a boolean, the
    word's number for a string, 0 for null; an integer beyond 2 ** 53 is the number of the word that has its digits). A
    record's id is in `text` at `id_at` with `id_size` bytes (int64, -1 for
    none); `ts` is int64, -1 for none. `label_kinds` (int8) is -1 for none, `label_values` is like `values`.
    """

    text: Any
    slow: Any
    skipped: Any
    starts: Any
    names: Any
    kinds: Any
    values: Any
    id_at: Any
    id_size: Any
    ts: Any
    label_kinds: Any
    label_values: Any
    vocabulary: FeatureVocabulary

    def only(self, kept: Any) -> "Scan":
        """Return a scan with the features of these records only (int64, ascending); the other fields stay."""
        count = len(self.starts) - 1
        if len(kept) == count:
            return self
        sizes = np.diff(self.starts)
        is_kept = np.zeros(count, np.bool_)
        is_kept[kept] = True
        entries = np.repeat(is_kept, sizes)
        return self._replace(
            starts=np.concatenate(([0], np.cumsum(sizes[kept]))),
            names=self.names[entries],
            kinds=self.kinds[entries],
            values=self.values[entries],
        )


class _MappingState:
    """A mapping for the lexer, and the lexer's notes while it reads by this mapping."""

    def __init__(self, tree: MappingTree, features: Mapping[str, Feature]) -> None:
        self.arrays, self.declared = tree.arrays(), tree.declared(features)
        # The number of the unit of times in the records' values; 0 if there are none.
        self.times = UNITS.index(tree.mapping.ts_unit) if tree.mapping.ts_path.source == "value" else 0
        self.notes = np.zeros(1, LEXER_NOTES)
        for name, value in tree.options().items():
            self.notes[name] = value


class Scanner:
    """Read batches of records; names and words that it has seen before are read faster.

    Without a `mapping`, and with one that compiled code can't follow, all records are slow. So is a record with more
    than `value_bytes_max` bytes, and one that may break the schema. A vocabulary that has passed its bounds is replaced
    by a new one, of the next generation.
    """

    def __init__(
        self,
        *,
        value_bytes_max: int = VALUE_BYTES_MAX,
        schema: Schema | None = None,
        mapping: RecordMapping | None = _DEFAULT_MAPPING,
        names_max: int = NAMES_MAX,
        words_max: int = WORDS_MAX,
        arena_bytes_max: int = ARENA_BYTES_MAX,
    ) -> None:
        self._value_bytes_max = value_bytes_max
        self._schema = schema or Schema({})
        self._tree = MappingTree(mapping or _DEFAULT_MAPPING)
        self._reads = mapping is not None and self._tree.is_known
        self._bounds = names_max, words_max, arena_bytes_max
        self._stamp = 1
        self._begin(0)

    def scan(self, batch: RecordBatch) -> Scan:
        """Read a batch by the mapping; a value that the decoder would refuse is slow."""
        if not self._reads:
            # A value without bytes is slow.
            return self._read([None] * len(batch), OutsideFields(), self._kept)
        return self._read(batch.values, OutsideFields(self._tree.mapping, batch), self._mapped)

    def scan_kept(self, values: Sequence[bytes]) -> Scan:
        """Read the features of records that the decoder has kept (`RecordDecoder.keep`)."""
        return self._read(values, OutsideFields(), self._kept)

    def _read(self, values: Sequence[bytes | None], outside: OutsideFields, reading: _MappingState) -> Scan:
        if self._is_full():
            self._begin(self.vocabulary.generation + 1)
        rows = [value or b"" for value in values]
        count = len(rows)
        rows += outside.texts
        begins = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)) + 1, out=begins[1:])
        rows.append(bytes(PADDING))
        text = np.frombuffer(bytearray(b"\0").join(rows), np.uint8)
        each = _ELEMENT_BYTES_MIN if self._tree.mapping.flatten else _FEATURE_BYTES_MIN
        columns, heads = _columns(count, len(text) // each), _heads(count)
        outside.read(text, begins[count:], heads)
        done = 0
        while True:
            done = walk(
                text, begins[: count + 1], columns, heads, self._memory(reading.declared), reading.arrays, self._rules,
                reading.notes, done, self._stamp, self._value_bytes_max,
            )  # fmt: skip
            self._stamp += count
            if done == count:
                break
            self.vocabulary.name_numbers.grow()
            self.vocabulary.word_numbers.grow()
            self._judge()
        if reading.times:
            columns = _read_times(text, columns, heads, reading.times)
        outside.lay_out(heads)
        starts, *entries = columns
        names, kinds, numbers = (entry[: starts[-1]] for entry in entries)
        slow, skipped, (id_at, id_size, ts), label_kinds, label_values = heads
        return Scan(
            text, slow, skipped, starts, names, kinds, numbers, id_at, id_size, ts, label_kinds, label_values,
            self.vocabulary,
        )  # fmt: skip

    def fill(self, scan: Scan, rows: Mapping[int, Mapping[str, Any]]) -> Scan:
        """Return a scan with the features of these slow records as well, by their index in the batch.

        It must be this scanner's last scan. Raises OverflowError for an integer too large for a double.
        """
        if not rows:
            return scan
        order = sorted(rows)
        names: list[str] = []
        values: list[Any] = []
        for i in order:
            names.extend(rows[i])
            values.extend(rows[i].values())
        kinds = np.fromiter(map(_KINDS.__getitem__, map(type, values)), np.int8, len(values))
        numbers = self._numbers(values, kinds)
        sizes = np.diff(scan.starts)
        sizes[order] = [len(rows[i]) for i in order]
        is_filled = np.zeros(len(sizes), np.bool_)
        is_filled[order] = True
        mask = np.repeat(is_filled, sizes)
        return scan._replace(
            starts=np.concatenate([[0], np.cumsum(sizes)]),
            names=_merge(mask, self.vocabulary.name_numbers.numbers(names), scan.names),
            kinds=_merge(mask, kinds, scan.kinds),
            values=_merge(mask, numbers, scan.values),
        )

    def _numbers(self, values: list[Any], kinds: Any) -> Any:
        """Return the values of features as numbers, for the columns, and mark the wide integers among the kinds."""
        for k in np.flatnonzero(kinds == INTEGER).tolist():
            if abs(values[k]) > EXACT_MAX:
                float(values[k])
                kinds[k], values[k] = WIDE, str(values[k])
        strings = np.flatnonzero((kinds == STRING) | (kinds == WIDE)).tolist()
        if strings:
            words = self.vocabulary.word_numbers.numbers([values[k] for k in strings])
            for k, word in zip(strings, words, strict=True):
                values[k] = word
        for k in np.flatnonzero(kinds == NULL).tolist():
            values[k] = 0.0
        return np.fromiter(values, np.float64, len(values))

    @property
    def rules(self) -> SchemaArrays:
        """The schema as arrays, with the numbers of the present vocabulary."""
        return self._rules

    def _is_full(self) -> bool:
        names, words = self.vocabulary.name_numbers, self.vocabulary.word_numbers
        names_max, words_max, arena_bytes_max = self._bounds
        most = max(names.arena_bytes, words.arena_bytes)
        return len(names) > names_max or len(words) > words_max or most > arena_bytes_max

    def _begin(self, generation: int) -> None:
        """Begin a new vocabulary; the names and words of the schema have its first numbers."""
        self.vocabulary = FeatureVocabulary(generation)
        features, extra = self._schema._features, self._schema._extra  # noqa: SLF001 another form of the same schema
        self.vocabulary.name_numbers.numbers(list(features))
        words = list(dict.fromkeys(word for feature in features.values() for word in feature.values or ()))
        numbers = dict(zip(words, self.vocabulary.word_numbers.numbers(words), strict=True))
        self._rules = arrays_of(features, extra=extra, numbers=numbers)
        self._kept = _MappingState(MappingTree(_DEFAULT_MAPPING), features)
        self._mapped = _MappingState(self._tree, features) if self._reads else self._kept
        self._expected = np.full((3, GUESSES), -1, np.int64)
        self._scratch = np.zeros(NAME_BYTES_MAX + PADDING, np.uint8)
        self._mark(list(features))

    def _mark(self, declared: list[str]) -> None:
        """Mark the names that are known to be no features, and those that are on a path."""
        marks = {name: self._tree.mark(name) for name in declared} | self._tree.marks()
        numbers = self.vocabulary.name_numbers.numbers(list(marks))
        self.vocabulary.name_numbers.table.rows[numbers, STAMP] = list(marks.values())
        self._judged = len(self.vocabulary.name_numbers)

    def _judge(self) -> None:
        """Say of the new names for which the lexer has stopped whether they are features."""
        names, rows = self.vocabulary.names, self.vocabulary.name_numbers.table.rows
        for number in range(self._judged, len(names)):
            if rows[number, STAMP] == MARKED + ASKED:
                rows[number, STAMP] = self._tree.mark(names[number])
        self._judged = len(names)

    def _memory(self, declared: Any) -> LexerMemory:
        names, words = self.vocabulary.name_numbers.table, self.vocabulary.word_numbers.table
        return LexerMemory(names, words, self._expected, self._scratch, declared)


def warm() -> None:
    """Compile the scanner, which takes seconds, or load it from the cache."""
    scanner = Scanner()
    scanner.vocabulary.name_numbers.numbers([str(n) for n in range(1_000)])
    scanner.scan_kept([b'{"features": {"a": 1}}'])


def _columns(count: int, entries_max: int) -> ScannedColumns:
    """Make columns for `count` records and `entries_max` entries; the system adds memory only when they are written."""
    return ScannedColumns(
        starts=np.zeros(count + 1, np.int64),
        names=np.empty(entries_max, np.int32),
        kinds=np.empty(entries_max, np.int8),
        values=np.empty(entries_max, np.float64),
    )


def _heads(count: int) -> Heads:
    return Heads(
        slow=np.zeros(count, np.bool_),
        skipped=np.empty(count, np.bool_),
        marks=np.empty((3, count), np.int64),
        label_kinds=np.empty(count, np.int8),
        label_values=np.empty(count, np.float64),
    )


def _read_times(text: Any, columns: ScannedColumns, heads: Heads, unit: int) -> ScannedColumns:
    """Replace the positions of times by the times; return the columns without the records whose time is odd."""
    odd = np.zeros(len(heads.slow), np.bool_)
    places = heads.marks[_TS]
    read_times(text, places.copy(), unit, True, places, odd)  # noqa: FBT003 compiled functions have only positional arguments
    if not odd.any():
        return columns
    heads.slow[odd] = True
    heads.marks[:, odd] = heads.label_kinds[odd] = -1
    heads.label_values[odd] = 0.0
    sizes = np.where(odd, 0, np.diff(columns.starts))
    kept = np.repeat(~odd, np.diff(columns.starts))
    starts, *entries = columns
    return ScannedColumns(np.concatenate(([0], np.cumsum(sizes))), *(entry[: starts[-1]][kept] for entry in entries))


def _merge(mask: Any, filled: Any, scanned: Any) -> Any:
    """Merge two columns: `filled` where the mask is set, elsewhere `scanned`."""
    column = np.empty(len(mask), scanned.dtype)
    column[mask] = filled
    column[~mask] = scanned
    return column
