"""The dead letters for the page: counted by code, listed, and shown in full, with what became of their replay."""

import threading
import time
from typing import Any

import msgspec

from headrace.pipeline.config.config import Config
from headrace.pipeline.dlq import dlq
from headrace.pipeline.dlq.dead_letters import DeadLetterRecord, envelope
from headrace.pipeline.dlq.execution import reading
from headrace.pipeline.dlq.receipts import States
from headrace.producers import deadletter

KEPT_MAX = 20_000
"""The number of newest dead letters that are listed; the counts beside them are those of these."""
PAGE_MAX = 100
_FRESH_S = 2.0


class LetterLine(msgspec.Struct, frozen=True):
    """One dead letter in the list. `at` is its time in ms; `state` is that of its replay."""

    partition: int
    offset: int
    at: int
    status: int
    code: str
    field: str
    message: str
    topic: str
    state: str = "waiting"


class LetterCount(msgspec.Struct):
    """The number of dead letters with one code. `first` and `last` are times in ms."""

    status: int
    code: str
    count: int = 0
    waiting: int = 0
    replayed: int = 0
    parked: int = 0
    first: int = 0
    last: int = 0
    example: str = ""


class Letters:
    """The newest dead letters of one pipeline. Each call reads the dead letters that came after the previous call."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._topic = config.topics.dead_letters
        self._lines: list[LetterLine] = []
        self._ends: dict[int, int] = {}
        self._states: States | None = None
        self._read_at = 0.0
        self._lock = threading.Lock()
        self._left_out = 0

    def told(self, *, code: str | None, before: int = 0, limit: int = PAGE_MAX) -> dict[str, Any]:
        """Return the counts by code, and a part of the list, the newest first.

        `before` is the number of lines to pass over. Raises ReaderAway, ReaderDenied.
        """
        with self._lock:
            self._refresh()
            counts: dict[tuple[int, str], LetterCount] = {}
            for line in self._lines:
                self._count(counts.setdefault((line.status, line.code), LetterCount(line.status, line.code)), line)
            wanted = [line for line in reversed(self._lines) if code is None or line.code == code]
            shown = [self._with_state(line) for line in wanted[before : before + min(limit, PAGE_MAX)]]
        return {
            "topic": self._topic,
            "counts": sorted(counts.values(), key=lambda row: (-row.count, row.code)),
            "letters": shown,
            "total": len(wanted),
            "left_out": self._left_out,
        }

    def whole(self, partition: int, offset: int) -> dict[str, Any]:
        """Return one dead letter in full. Raises DeadLetterError, ReaderAway, ReaderDenied."""
        with reading(self._config) as reader:
            [letter] = dlq.find_one(reader, self._topic, partition, offset)
            state = dlq.states_of(self._config, reader, self._topic).of(partition, offset)
        record = letter.record
        own = [(name, None if v is None else v.decode(errors="backslashreplace")) for name, v in _own(letter)]
        return {
            **envelope(self._topic, record),
            "status": letter.status,
            "origin": letter.origin,
            "state": state,
            "record_headers": own,
            "bytes": len(record.value or b""),
        }

    def forget(self) -> None:
        """Read the states anew at the next call: a replay has changed them."""
        self._read_at = 0.0

    def _refresh(self) -> None:
        # As of the beginning: what comes while this reads may be missing.
        begun = time.monotonic()
        if begun - self._read_at < _FRESH_S:
            return
        with reading(self._config) as reader:
            spans = reader.spans(self._topic)
            share = KEPT_MAX // max(1, len(spans))
            for partition, span in spans.items():
                start = max(span.start, span.end - share, self._ends.get(partition, 0))
                if partition not in self._ends:
                    self._left_out += start - span.start
                for record in reader.between(self._topic, partition, start, span.end):
                    self._lines.append(_line(DeadLetterRecord.of(record)))
                self._ends[partition] = span.end
            self._states = dlq.states_of(self._config, reader, self._topic) if spans else None
        self._lines.sort(key=lambda line: (line.at, line.partition, line.offset))
        self._left_out += max(0, len(self._lines) - KEPT_MAX)
        del self._lines[:-KEPT_MAX]
        self._read_at = begun

    def _state(self, line: LetterLine) -> str:
        return "waiting" if self._states is None else self._states.of(line.partition, line.offset)

    def _with_state(self, line: LetterLine) -> LetterLine:
        return msgspec.structs.replace(line, state=self._state(line))

    def _count(self, row: LetterCount, line: LetterLine) -> None:
        row.count += 1
        state = self._state(line)
        setattr(row, state, getattr(row, state) + 1)
        row.first = row.first or line.at
        row.last, row.example = line.at, line.message


def _own(letter: DeadLetterRecord) -> list[tuple[str, bytes | None]]:
    return list(deadletter.strip(letter.record.headers))


def _line(letter: DeadLetterRecord) -> LetterLine:
    reason, record = letter.reason, letter.record
    return LetterLine(
        record.partition,
        record.offset,
        record.timestamp_ms,
        letter.status,
        letter.code,
        reason.field,
        " ".join(reason.message.split())[:200],
        reason.topic or "unknown",
    )
