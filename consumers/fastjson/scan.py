"""Reads the JSON of a batch of feature records into columns, in compiled code, without an object for each record.

It does not replace the decoder: a record that the scanner is not sure of is marked slow. The caller decodes it, and
`Scanner.fill` inserts the result into the columns. The other records have exactly the values that the decoder would
give them. Importing this module imports numba.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.fastjson.interner import Interner
from headrace.consumers.fastjson.jit import PADDING
from headrace.consumers.fastjson.lexer import GUESSES, Heads, LexerMemory, ScannedColumns, walk
from headrace.consumers.fastjson.number import BOOLEAN, FLOAT, INTEGER, NULL, STRING
from headrace.consumers.fastjson.schema_arrays import SchemaArrays, arrays_of
from headrace.consumers.record import VALUE_BYTES_MAX
from headrace.consumers.schema import Schema

NAMES_MAX = 65_536
WORDS_MAX = 262_144
ARENA_BYTES_MAX = 16_777_216
"""With more names, words, or bytes of either, a new vocabulary begins before the next batch."""

# The shortest feature is `"":1,`.
_FEATURE_BYTES_MIN = 5
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
    the decoder must read; they have no entries until they are filled in. Record i has the entries from `starts[i]` to
    `starts[i + 1]` (int64, n + 1) of `names` (int32), `kinds` (int8) and `values` (float64: 0 or 1 for a boolean, the
    word's number for a string, 0 for null). A record's id is in `text` at `id_at` with `id_size` bytes (int64, -1 for
    none); `ts` is int64, -1 for none. `label_kinds` (int8) is -1 for none, `label_values` is like `values`.
    """

    text: Any
    slow: Any
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


class Scanner:
    """Read batches of records; names and words that it has seen before are read faster.

    A record with more than `value_bytes_max` bytes is slow, and so is one that may break the schema. A vocabulary that
    has passed its bounds is replaced by a new one, of the next generation.
    """

    def __init__(
        self,
        *,
        value_bytes_max: int = VALUE_BYTES_MAX,
        schema: Schema | None = None,
        names_max: int = NAMES_MAX,
        words_max: int = WORDS_MAX,
        arena_bytes_max: int = ARENA_BYTES_MAX,
    ) -> None:
        self._value_bytes_max = value_bytes_max
        self._schema = schema or Schema({})
        self._bounds = names_max, words_max, arena_bytes_max
        self._stamp = 1
        self._begin(0)

    def scan(self, values: Sequence[bytes | None]) -> Scan:
        """Read the values of records; None is slow, like any value that the decoder would refuse."""
        if self._is_full():
            self._begin(self.vocabulary.generation + 1)
        rows = [value or b"" for value in values]
        count = len(rows)
        sizes = np.fromiter(map(len, rows), np.int64, count)
        rows.append(bytes(PADDING))
        text = np.frombuffer(b"\0".join(rows), np.uint8)
        begins = np.zeros(count + 1, np.int64)
        np.cumsum(sizes + 1, out=begins[1:])
        columns, heads = _columns(count, len(text) // _FEATURE_BYTES_MIN), _heads(count)
        done = 0
        while True:
            memory = self._memory()
            done = walk(text, begins, columns, heads, memory, self._rules, done, self._stamp, self._value_bytes_max)
            self._stamp += count
            if done == count:
                break
            self.vocabulary.name_numbers.grow()
            self.vocabulary.word_numbers.grow()
        starts, *entries = columns
        names, kinds, numbers = (entry[: starts[-1]] for entry in entries)
        slow, (id_at, id_size, ts), label_kinds, label_values = heads
        return Scan(
            text, slow, starts, names, kinds, numbers, id_at, id_size, ts, label_kinds, label_values, self.vocabulary
        )

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
        """Return the values of features as numbers, for the columns."""
        strings = np.flatnonzero(kinds == STRING).tolist()
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
        self._next_names, self._next_words = np.full(GUESSES, -1, np.int32), np.full(GUESSES, -1, np.int32)

    def _memory(self) -> LexerMemory:
        names, words = self.vocabulary.name_numbers.table, self.vocabulary.word_numbers.table
        return LexerMemory(names, words, self._next_names, self._next_words)


def warm() -> None:
    """Compile the scanner, which takes seconds, or load it from the cache."""
    scanner = Scanner()
    scanner.vocabulary.name_numbers.numbers([str(n) for n in range(1_000)])
    scanner.scan([b'{"features": {"a": 1}}'])


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
        slow=np.empty(count, np.bool_),
        marks=np.empty((3, count), np.int64),
        label_kinds=np.empty(count, np.int8),
        label_values=np.empty(count, np.float64),
    )


def _merge(mask: Any, filled: Any, scanned: Any) -> Any:
    """Merge two columns: `filled` where the mask is set, elsewhere `scanned`."""
    column = np.empty(len(mask), scanned.dtype)
    column[mask] = filled
    column[~mask] = scanned
    return column
