"""Encodes a batch of predictions from columns, to the same bytes as `prediction.encode`.

The parts that are the same for all records are encoded once, as pieces. Compiled code then writes one line for each
record into one array of bytes; only the lines become Python objects.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from headrace.producers.fastjson.digits import (
    DOUBLE_BYTES_MAX,
    INTEGER_BYTES_MAX,
    compiled,
    write_double,
    write_integer,
)
from headrace.producers.prediction import class_name, encode_plain

# The pieces of a line, in order. `_OWN` is the start of the id of a record without one. The classes follow from
# `_LABELS` on, first as answers, then as keys of `proba`. They are np.int64: for literals numba would compile twice.
_OPEN, _OWN, _ANSWER, _MODEL, _TIME, _END, _NULL, _LABELS = (np.int64(piece) for piece in range(8))
_BINARY = (False, True)
_COMMA = np.uint8(ord(","))
_EVEN_ID_BYTES_MAX = 256
"""Up to this length of the longest id, all lines get equal room: numpy then splits them faster than slices would."""


class Ids(NamedTuple):
    """The position (`at`) and `size` (int64) of each record's id in `text` (uint8), as JSON writes it between quotes.

    An `at` of -1 means that the record has no id; it gets `<topic>-<partition>-<offset>`.
    """

    text: Any
    at: Any
    size: Any


class _Lines(NamedTuple):
    """The lines in one array, and their starts and ends. `even` is the room of each line, or 0 if they differ."""

    text: Any
    starts: Any
    ends: Any
    even: int


class _Pieces(NamedTuple):
    """The pieces in one array: piece k is `text[bounds[k]:bounds[k + 1]]`. `keys` is the first key of `proba`."""

    text: Any
    bounds: Any
    keys: int


class _Columns(NamedTuple):
    """The values that differ between records: doubles as bits, answers as numbers or classes; empty if not used.

    With both, the classes are the verdicts of an anomaly detector, and the numbers its scores.
    """

    offsets: Any
    numbers: Any
    chosen: Any
    proba: Any
    known: Any
    order: Any


class _LastField(NamedTuple):
    """How the last field of a line starts, and how that and the line end."""

    start: bytes
    end: bytes


_NOTHING, _PROBA, _SCORE = _LastField(b"", b"}"), _LastField(b',"proba":{', b"}}"), _LastField(b',"score":', b"}")


class Encoder:
    """Encode batches of the model `name`, each for records of one partition of the features `topic`.

    Arrays have a row for each record; `offsets` are int64, `ts` is in milliseconds since 1970. NaN and infinity become
    null.
    """

    def __init__(self, *, topic: str, name: str) -> None:
        self._topic = _json(topic)
        self._name = _json(name)

    def binary(
        self,
        ids: Ids,
        *,
        partition: int,
        offsets: Any,
        version: int,
        ts: int,
        chosen: Any,
        proba: Any | None,
        generation: int = 1,
    ) -> list[bytes]:
        """Encode answers that are false (0) or true (1), with the probability of true, if given."""
        both = None
        if proba is not None:
            both = np.empty((len(proba), 2))
            both[:, 1] = proba
            np.subtract(1.0, both[:, 1], out=both[:, 0])
        columns = _columns(offsets, chosen=chosen, proba=both, known=np.full(len(offsets), 2))
        last = _NOTHING if both is None else _PROBA
        return self._encode(ids, columns, _BINARY, self._parts(partition, version, generation, ts, last))

    def number(
        self,
        ids: Ids,
        *,
        partition: int,
        offsets: Any,
        version: int,
        ts: int,
        values: Any,
        generation: int = 1,
    ) -> list[bytes]:
        """Encode answers that are numbers (float64)."""
        columns = _columns(offsets, numbers=values)
        return self._encode(ids, columns, (), self._parts(partition, version, generation, ts, _NOTHING))

    def anomaly(
        self,
        ids: Ids,
        *,
        partition: int,
        offsets: Any,
        version: int,
        ts: int,
        verdicts: Any,
        scores: Any,
        generation: int = 1,
    ) -> list[bytes]:
        """Encode the verdicts of an anomaly detector, false (0), true (1) or null (-1), and its scores (float64)."""
        columns = _columns(offsets, numbers=scores, chosen=verdicts)
        return self._encode(ids, columns, _BINARY, self._parts(partition, version, generation, ts, _SCORE))

    def classes(
        self,
        ids: Ids,
        *,
        partition: int,
        offsets: Any,
        version: int,
        ts: int,
        chosen: Any,
        proba: Any | None,
        known: Any,
        names: Sequence[Any],
        order: Any | None = None,
        generation: int = 1,
    ) -> list[bytes]:
        """Encode answers that are indices into `names` (booleans, whole numbers, strings), or -1 for null.

        A row of `proba` has a number for each class; only the first `known` classes of a record are written. They are
        the first names, or those with the indices in the record's row of `order`. Raises ValueError for a name that
        UTF-8 can't encode.
        """
        columns = _columns(offsets, chosen=chosen, proba=proba, known=known, order=order)
        last = _NOTHING if proba is None else _PROBA
        return self._encode(ids, columns, names, self._parts(partition, version, generation, ts, last))

    def _encode(self, ids: Ids, columns: _Columns, names: Sequence[Any], parts: Sequence[bytes]) -> list[bytes]:
        if len(columns.offsets) == 0:
            return []
        answers = [b"null", *map(encode_plain, names)]
        keys = [b'"%s":' % _json(class_name(name)) for name in names]
        keys_max = sorted(map(len, keys), reverse=True)[: int(columns.known.max(initial=0))]
        # The offset is written once, and again in the id of a record without one.
        numbers_max = 2 * INTEGER_BYTES_MAX + DOUBLE_BYTES_MAX * (1 + len(keys_max))
        # Each key has a comma in front of it.
        room = numbers_max + sum(map(len, parts)) + max(map(len, answers)) + sum(keys_max) + len(keys_max)
        pieces = _pieces([*parts, *answers, *keys], keys=len(parts) + len(answers))
        ids = Ids(_array(ids.text, np.uint8), _array(ids.at, np.int64), _array(ids.size, np.int64))
        lines = _lines(ids, room)
        _write(lines, pieces, ids, columns)
        return _split(lines)

    def _parts(self, partition: int, version: int, generation: int, ts: int, last: _LastField) -> list[bytes]:
        """Encode the pieces up to `_END`."""
        model = b'"model":{"name":"%s","version":%d,"generation":%d}' % (self._name, version, generation)
        source = b'"source":{"topic":"%s","partition":%d,"offset":' % (self._topic, partition)
        return [
            b'{"id":"',
            b"%s-%d-" % (self._topic, partition),
            b'","prediction":',
            b",%s,%s" % (model, source),
            b'},"ts":%d%s' % (ts, last.start),
            last.end,
        ]


def warm() -> None:
    """Compile the encoder, which takes seconds, or load it from the cache."""
    ids = Ids(np.empty(0, dtype=np.uint8), np.array([-1]), np.array([0]))
    Encoder(topic="", name="").number(ids, partition=0, offsets=np.array([0]), version=0, ts=0, values=np.array([0.5]))


def _json(text: str) -> bytes:
    """Return a string as JSON writes it between quotes."""
    return msgspec.json.encode(text)[1:-1]


def _array(values: Any, kind: Any) -> Any:
    array = np.ascontiguousarray(values, dtype=kind)
    # For numba an unaligned or read-only array has another type, for which it would compile again.
    return array if array.flags.carray else array.copy()


def _columns(
    offsets: Any, *, numbers: Any = (), chosen: Any = (), proba: Any = None, known: Any = (), order: Any = None
) -> _Columns:
    return _Columns(
        _array(offsets, np.int64),
        _array(numbers, np.float64).view(np.uint64),
        _array(chosen, np.int64),
        _array(np.empty((0, 0)) if proba is None else proba, np.float64).view(np.uint64),
        _array(() if proba is None else known, np.int64),
        _array(np.empty((0, 0)) if order is None else order, np.int64),
    )


def _pieces(parts: Sequence[bytes], *, keys: int) -> _Pieces:
    bounds = np.array([0, *itertools.accumulate(map(len, parts))], dtype=np.int64)
    return _Pieces(np.frombuffer(bytearray().join(parts), dtype=np.uint8), bounds, keys)


def _lines(ids: Ids, room: int) -> _Lines:
    """Make room for the lines: `room` bytes and those of its id for each. Unused bytes stay zero."""
    longest = max(0, int(ids.size.max()))
    even = room + longest if longest <= _EVEN_ID_BYTES_MAX else 0
    rooms = np.full(len(ids.at), even) if even else room + ids.size
    ends = np.cumsum(rooms)
    return _Lines(np.zeros(int(ends[-1]), dtype=np.uint8), ends - rooms, ends, even)


def _split(lines: _Lines) -> list[bytes]:
    """Make an object of each line."""
    if lines.even:
        # numpy makes the objects and cuts off the zeros at their ends: three times as fast as slices.
        split: list[bytes] = lines.text.view(f"S{lines.even}").tolist()
        return split
    whole = lines.text.tobytes()
    return [whole[start:end] for start, end in zip(lines.starts.tolist(), lines.ends.tolist(), strict=True)]


@compiled
def _write(lines: _Lines, pieces: _Pieces, ids: Ids, columns: _Columns) -> None:
    """Write each line at its start, and note its end."""
    text = lines.text
    for i in range(len(lines.starts)):
        at = _copy_piece(text, lines.starts[i], pieces, _OPEN)
        if ids.at[i] < 0:
            at = _copy_piece(text, at, pieces, _OWN)
            at = write_integer(text, at, columns.offsets[i])
        else:
            at = _copy(text, at, ids.text, ids.at[i], ids.at[i] + ids.size[i])
        at = _copy_piece(text, at, pieces, _ANSWER)
        if len(columns.chosen) == 0:
            at = write_double(text, at, columns.numbers[i])
        else:
            at = _copy_piece(text, at, pieces, _LABELS + columns.chosen[i] if columns.chosen[i] >= 0 else _NULL)
        at = _copy_piece(text, at, pieces, _MODEL)
        at = write_integer(text, at, columns.offsets[i])
        at = _copy_piece(text, at, pieces, _TIME)
        if len(columns.numbers) > 0 and len(columns.chosen) > 0:
            # An anomaly detector answers with a verdict, and its score comes last.
            at = write_double(text, at, columns.numbers[i])
        if len(columns.known) > 0:
            for k in range(columns.known[i]):
                if k > 0:
                    text[at] = _COMMA
                    at += 1
                key = columns.order[i, k] if len(columns.order) > 0 else k
                at = _copy_piece(text, at, pieces, pieces.keys + key)
                at = write_double(text, at, columns.proba[i, k])
        lines.ends[i] = _copy_piece(text, at, pieces, _END)


@compiled
def _copy_piece(text: Any, at: int, pieces: _Pieces, piece: Any) -> int:
    return _copy(text, at, pieces.text, pieces.bounds[piece], pieces.bounds[piece + 1])


@compiled
def _copy(text: Any, at: int, piece: Any, start: int, end: int) -> int:
    """Copy a piece to `at`, and return its end."""
    size = end - start
    # Never true, but it tells the compiler that no index is negative: so it copies 32 bytes at a time.
    if at < 0 or start < 0:
        return at
    for i in range(size):
        text[at + i] = piece[start + i]
    return at + size
