"""Takes the body of a request apart: into the records to predict, each with its bytes as the topic would have them.

One object is one record. An array, JSON lines, or an object with `instances` are many. The records stay bytes: the
topic's own decoder reads them, so that a record means here what it means in the stream.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, overload

import msgspec

from headrace.consumers.mapping import RecordMapping
from headrace.pipeline.serve.http.problem import Problem, RecordProblem

_ABSENT = msgspec.Raw(b"")
_LINES = (b"ndjson", b"jsonl", b"json-seq", b"jsonlines")


class AskedRecord(msgspec.Struct, frozen=True, gc=False):
    """One record that is to be predicted: its value as the topic has it, and its key or its partition, if any."""

    value: bytes
    key: bytes | None = None
    partition: int = -1


AskedItem = AskedRecord | Problem


class AskedRows(Sequence[AskedRecord]):
    """Records that have the same key, or none, and the same partition: kept as their values alone."""

    __slots__ = ("_key", "_partition", "values")

    def __init__(self, values: list[bytes], key: bytes | None, partition: int) -> None:
        self.values = values
        self._key = key
        self._partition = partition

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, at: int) -> AskedRecord: ...
    @overload
    def __getitem__(self, at: slice) -> "AskedRows": ...
    def __getitem__(self, at: int | slice) -> "AskedRecord | AskedRows":
        if isinstance(at, slice):
            return AskedRows(self.values[at], self._key, self._partition)
        return AskedRecord(self.values[at], self._key, self._partition)


class AskedRecords(msgspec.Struct, frozen=True, gc=False):
    """The records of a request, or why one of them is none; `is_many` says that a list is to be answered."""

    records: Sequence[AskedItem]
    is_many: bool


class BodyReader:
    """Read the bodies of requests, for records of a `mapping`; with `has_key`, the schema declares a feature `key`."""

    def __init__(self, mapping: RecordMapping, *, is_transformed: bool, has_key: bool) -> None:
        self._path = () if is_transformed else tuple(mapping.features_path)
        # The fields beside a record's own that are read here, and the first one on the way to its features.
        above = {"features": self._path[0]} if self._path else {}
        fields = [(name, msgspec.Raw, _ABSENT) for name in ("key", "partition", "instances", *above)]
        envelope = msgspec.defstruct("_Envelope", fields, rename=above, gc=False)
        self._read: Callable[[bytes | msgspec.Raw], Any] = msgspec.json.Decoder(envelope).decode
        self._read_all: Callable[[bytes], list[Any]] = msgspec.json.Decoder(list[envelope]).decode  # type: ignore[valid-type]  # it is a type
        self._list = msgspec.json.Decoder(list[msgspec.Raw]).decode
        self._told = [msgspec.json.encode(name) for name in ("key", "partition", *above.values())]
        names = [msgspec.json.encode(name) for name in self._path]
        self._around = b"".join(b"{%b:" % name for name in names), b"}" * len(names)
        # Where the whole value is features, a field of it may be one of them.
        self._is_flat = not self._path and not is_transformed
        self._takes_key = not (self._is_flat and has_key)

    def read(
        self, body: bytes, *, is_lines: bool, key: bytes | None = None, partition: int = -1
    ) -> AskedRecords | Problem:
        """Return the records of a body. A `key` or `partition` of the request is that of each record without its own.

        `is_lines` says that the body is JSON lines, whatever it looks like.
        """
        start = body.lstrip()[:1]
        if start == b"[":
            return self._many(body, key, partition)
        if start != b"{":
            return AskedRecords([AskedRecord(body, key, partition)], is_many=False)
        if is_lines:
            return self._lines(body, key, partition)
        try:
            found = self._read(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            if b"\n" in body.strip():
                lines = self._lines(body, key, partition)
                if any(isinstance(record, AskedRecord) and _is_json(record.value) for record in lines.records):
                    return lines
            # The decoder says what is wrong with it.
            return AskedRecords([AskedRecord(body, key, partition)], is_many=False)
        if found.instances:
            return self._instances(bytes(found.instances), key, partition)
        return AskedRecords([self._record(body, found, key, partition)], is_many=False)

    def row(self, features: dict[str, Any], key: bytes | None = None, partition: int = -1) -> AskedRecord:
        """Return a record with these features."""
        whole: Any = features
        for name in reversed(self._path):
            whole = {name: whole}
        return AskedRecord(msgspec.json.encode(whole), key, partition)

    def _many(self, body: bytes, key: bytes | None, partition: int) -> AskedRecords | Problem:
        try:
            items = self._list(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            return RecordProblem("not_json", f"the body is no array of records: {error}")
        return AskedRecords(self._items(items, self._envelopes(body), key, partition), is_many=True)

    def _is_plain(self, items: bytes) -> bool:
        """Tell whether no item can have a field that is read here: their names are nowhere, not even escaped."""
        return b"\\" not in items and not any(name in items for name in self._told)

    def _envelopes(self, items: bytes) -> list[Any] | None:
        """Read the fields of all items at once; None if one of them is no record."""
        try:
            return self._read_all(items)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None

    def _items(
        self, items: Sequence[msgspec.Raw], envelopes: list[Any] | None, key: bytes | None, partition: int
    ) -> list[AskedItem]:
        if envelopes is None:
            return [self._item(bytes(item), key, partition) for item in items]
        pairs = zip(items, envelopes, strict=True)
        return [
            self._record(bytes(item), found, key, partition)
            if found.key or found.partition
            else AskedRecord(bytes(item), key, partition)
            for item, found in pairs
        ]

    def _lines(self, body: bytes, key: bytes | None, partition: int) -> AskedRecords:
        lines = [line for line in body.split(b"\n") if line.strip()]
        return AskedRecords([self._item(line, key, partition) for line in lines], is_many=True)

    def _instances(self, items: bytes, key: bytes | None, partition: int) -> AskedRecords | Problem:
        try:
            rows = self._list(items)
        except msgspec.MsgspecError:
            return RecordProblem("wrong_type", "instances must be an array of records", "instances")
        if not self._path:
            return AskedRecords(self._items(rows, self._envelopes(items), key, partition), is_many=True)
        before, after = self._around
        records: list[AskedItem]
        # A row of features is put where the topic's records have theirs.
        if self._is_plain(items):
            values = [before + value + after if value.startswith(b"{") else value for value in map(bytes, rows)]
            return AskedRecords(AskedRows(values, key, partition), is_many=True)
        records = []
        for row, found in zip(rows, self._envelopes(items) or map(self._envelope, rows), strict=True):
            if found is None:
                records.append(AskedRecord(bytes(row), key, partition))
            elif not found.features:
                records.append(AskedRecord(b"%b%b%b" % (before, row, after), key, partition))
            else:
                records.append(self._record(bytes(row), found, key, partition))
        return AskedRecords(records, is_many=True)

    def _envelope(self, item: bytes | msgspec.Raw) -> Any:
        """Read the fields of one item; None if it is no record."""
        try:
            return self._read(item)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None

    def _item(self, value: bytes, key: bytes | None, partition: int) -> AskedItem:
        found = self._envelope(value)
        return AskedRecord(value, key, partition) if found is None else self._record(value, found, key, partition)

    def _record(self, value: bytes, found: Any, key: bytes | None, partition: int) -> AskedItem:
        if found.key and self._takes_key:
            told = key_of(bytes(found.key))
            if isinstance(told, Problem):
                return told
            key = told if told is not None else key
            if self._is_flat:
                value = _without(value, "key")
        if found.partition and not self._is_flat:
            number = bytes(found.partition)
            if not number.isdigit() or len(number) > 9:  # noqa: PLR2004 far more than a topic may have
                return RecordProblem("wrong_type", "partition must be the number of a partition", "partition")
            partition = int(number)
        return AskedRecord(value, key, partition)


@functools.lru_cache(64)
def is_lines(content_type: bytes) -> bool:
    """Tell whether a content type is that of JSON lines."""
    return bool(content_type) and any(name in content_type.lower() for name in _LINES)


def key_of(text: bytes) -> bytes | Problem | None:
    """Return the bytes of a key that was given as JSON: a string, or a number or a boolean as it is written."""
    if text.startswith(b'"'):
        try:
            return msgspec.json.decode(text, type=str).encode()
        except (msgspec.MsgspecError, UnicodeError):
            return RecordProblem("wrong_type", "key is no text", "key")
    if text == b"null":
        return None
    if text[:1] in b"[{":
        return RecordProblem("wrong_type", "key must be a string", "key")
    return text


def _without(value: bytes, name: str) -> bytes:
    fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    fields.pop(name, None)
    return msgspec.json.encode(fields)


def _is_json(value: bytes) -> bool:
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return False
    return True
