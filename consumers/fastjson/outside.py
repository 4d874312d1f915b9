"""Reads the fields that are not in a record's value: an id or a time from its key, its headers or its timestamp."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.consumers.fastjson.jit import SOURCES, entry
from headrace.consumers.fastjson.lexer import Heads
from headrace.consumers.fastjson.times import UNITS, read_times
from headrace.consumers.fastjson.tokens import plain_end
from headrace.consumers.mapping import FieldPath, RecordMapping
from headrace.consumers.record_batch import RecordBatch

_ID_AT, _ID_SIZE, _TS = range(3)


class _Texts:
    """A text of each record, or None, from `first` on among the texts of the batch."""

    def __init__(self, found: Sequence[bytes | None], first: int) -> None:
        self._part = slice(first, first + len(found) + 1)
        self.has = np.fromiter((text is not None for text in found), np.bool_, len(found))

    def begins(self, all_begins: Any) -> Any:
        """Return the starts of the texts, and the end of the last one."""
        return all_begins[self._part]


class OutsideFields:
    """The ids and times of a batch that are not in its values. Their `texts` must be laid behind the values.

    Without a batch there are none.
    """

    def __init__(self, mapping: RecordMapping | None = None, batch: RecordBatch | None = None) -> None:
        self.texts: list[bytes] = []
        self._ids: _Texts | None = None
        self._times: _Texts | None = None
        self._logged: Any = None
        if mapping is None or batch is None:
            return
        self._unit = UNITS.index(mapping.ts_unit)
        self._ids = self._take(mapping.id_path, batch)
        if mapping.ts_path.source == "timestamp":
            self._logged = np.fromiter(batch.timestamps, np.int64, len(batch))
        else:
            self._times = self._take(mapping.ts_path, batch)

    def _take(self, path: FieldPath, batch: RecordBatch) -> _Texts | None:
        """Return the texts of a field, None for a field in the records' values."""
        found: Sequence[bytes | None]
        if path.source == "key":
            found = batch.keys
        elif path.source == "header":
            found = _headers(batch, path.names[0])
        elif path.source == "timestamp":
            found = [b"%d" % timestamp if timestamp >= 0 else None for timestamp in batch.timestamps]
        else:
            return None
        texts = _Texts(found, len(self.texts))
        self.texts += [text or b"" for text in found]
        return texts

    def read(self, text: Any, begins: Any, heads: Heads) -> None:
        """Read the texts, which start at `begins`; a record is slow if its text must be read by the decoder."""
        self._begins = begins
        if self._ids is not None:
            _check_texts(text, self._ids.begins(begins), heads.slow)
        if self._times is not None:
            self._logged = np.empty(len(heads.slow), np.int64)
            places = np.where(self._times.has, self._times.begins(begins)[:-1], -1)
            read_times(text, places, self._unit, False, self._logged, heads.slow)  # noqa: FBT003 as above

    def lay_out(self, heads: Heads) -> None:
        """Write the ids and times of the records that are neither slow nor skipped."""
        is_read = ~(heads.slow | heads.skipped)
        if self._ids is not None:
            begins, has = self._ids.begins(self._begins), is_read & self._ids.has
            heads.marks[_ID_AT, has] = begins[:-1][has]
            heads.marks[_ID_SIZE, has] = np.diff(begins)[has] - 1
        if self._logged is not None:
            heads.marks[_TS, is_read] = np.maximum(self._logged, -1)[is_read]


def _headers(batch: RecordBatch, name: str) -> list[bytes | None]:
    """Return the value of each record's last header of this name."""
    if batch.headers is None:
        return [None] * len(batch)
    # In a dict the last one of a name stays; this is faster than a search.
    return [dict(headers).get(name) if headers else None for headers in batch.headers]


@entry
def _check_texts(text: Any, begins: Any, slow: Any, _sources: int = SOURCES) -> None:
    """Mark the records whose text can't stand between quotes as it is."""
    for i in range(len(slow)):
        slow[i] |= plain_end(text, begins[i]) != begins[i + 1] - 1
