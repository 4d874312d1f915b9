"""Replay: dead letters back into the stream, each of them once, however often it runs and wherever it is killed.

For each dead letter that is sent a receipt is written, to a compacted topic beside the dead letters. Record,
receipt, and the group's offset up to which every dead letter of the partition is done go out in one
transaction. Receipts are read after `init_transactions`, which ends what a killed replay left open, so what
is found then is all that was ever sent. A replay starts at the group's offset; above it the receipts decide.

The offset and the receipts name the topic's id: when the dead letters were deleted and made again, the same
partition and offset is another record.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from headrace.consumers.reader import Reader, Span
from headrace.consumers.record import Record
from headrace.pipeline.dlq import receipts
from headrace.pipeline.dlq.dead_letters import DeadLetterRecord, Selection
from headrace.pipeline.dlq.original import Originals
from headrace.producers import deadletter, replay_proof
from headrace.producers.record_size import record_bytes
from headrace.producers.writer import Outbound, Writer

UNKNOWN = "unknown"
"""What the topic is called of a dead letter that names none."""
BATCH_RECORDS_MAX = 500
BATCH_BYTES_MAX = 8_388_608
# What a topic takes of a time that lies ahead, unless it says otherwise (message.timestamp.after.max.ms).
_FUTURE_MS = 3_600_000
FAILURES_MAX = 10
"""So many failures of the edit function are kept to be shown; all are counted."""

Edit = Callable[[bytes], Any]


class ReplayError(Exception):
    """Raised when a replay can't be done as it was asked for."""

    status = 400

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Route(msgspec.Struct, frozen=True):
    """From which topic to which others a replay goes, and how many partitions those have; labels have the features'.

    `group` is the pipeline's, whose `secrets` sign what is sent, by partition. `bytes_max` has the largest record that
    each topic takes. With `foreign` dead letters of other topics go along. `is_own` says that the topic is where this
    pipeline's dead letters go: what names no origin in there is taken for its own.
    """

    topic: str
    topic_id: str
    features: str
    features_partitions: int
    labels: str | None
    receipts_partitions: int
    parked_partitions: int
    group: str
    secrets: Mapping[int, str] = {}
    bytes_max: Mapping[str, int] = {}
    foreign: bool = False
    is_own: bool = True

    def owns(self, letter: DeadLetterRecord) -> bool:
        """Tell whether a dead letter came from this pipeline's features or labels, whichever system wrote it."""
        origin = letter.reason.topic
        return origin in {self.features, self.labels} or (not origin and self.is_own)

    def claim(self, letter: DeadLetterRecord) -> replay_proof.ReplayClaim:
        """Return how often a dead letter's record was replayed, and whether this pipeline's model has learned it.

        The pipeline's own dead letters tell. Those that another system wrote have the record's headers, which count
        where a replay of this pipeline's has signed them.
        """
        reason, record = letter.reason, letter.record
        if reason.dialect == "headrace" and reason.group == self.group:
            return replay_proof.ReplayClaim(reason.replay_count, deadletter.is_learned(record.headers))
        stood = msgspec.structs.replace(record, partition=reason.partition)
        return replay_proof.read(
            record.headers, secret=self.secrets.get(reason.partition, ""), topic=reason.topic, record=stood
        )


class Group(msgspec.Struct):
    """Dead letters of one code that are to be sent: how many, from when to when (ms), and what one says."""

    code: str
    count: int
    first: int
    last: int
    example: str


class Summary(msgspec.Struct):
    """What a replay did, or would do. `selected` is the sum of the numbers that follow.

    `lost` counts those whose record was left out and is in the log no more, `too_large` those that their topic does not
    take; `reasons` has the first of both. `foreign` counts what came from other topics, and was not selected.
    """

    selected: int = 0
    to_send: int = 0
    to_park: int = 0
    sent: int = 0
    parked: int = 0
    left: int = 0
    edit_failed: int = 0
    lost: int = 0
    too_large: int = 0
    already: int = 0
    failures: list[str] = []
    reasons: list[str] = []
    foreign: dict[str, int] = {}
    groups: dict[str, Group] = {}


def parked_topic(topic: str) -> str:
    """Name the topic that gets the dead letters of `topic` that were replayed too often."""
    return f"{topic}.parked"


def load_edit(reference: str, directory: Path) -> Edit:
    """Find `module:function` beside the configuration. Raises ReplayError."""
    module, _, name = reference.partition(":")
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    try:
        edit = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise ReplayError(
            f"--edit {reference} can't be loaded: {type(error).__name__}: {error}",
            hint=f"put a function {name or 'fix'}(value: bytes) into {directory / (module + '.py')}",
        ) from error
    if not callable(edit):
        raise ReplayError(f"--edit {reference} is no function", hint="name a function that takes and returns bytes")
    return edit  # type: ignore[no-any-return]


class Replay:
    """Go through the dead letters of a route, in the order of partitions and offsets.

    Without a writer nothing is sent, and the summary tells what would be. `edit` changes values on their way.
    `originals` reads the records of dead letters that had no room for all of it.
    `progress` gets how many offsets are done, and of how many.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        originals: Originals,
        route: Route,
        selection: Selection,
        replay_max: int,
        edit: Edit | None,
        writer: Writer | None,
        now_ms: Callable[[], int],
        progress: Callable[[int, int], None],
    ) -> None:
        self._reader = reader
        self._originals = originals
        self._route = route
        self._selection = selection
        self._replay_max = replay_max
        self._edit = edit
        self._writer = writer
        self._now_ms = now_ms
        self._progress = progress
        self._batch: list[tuple[Outbound, Outbound]] = []
        self._batch_bytes = 0
        self._passed = 0
        self._total = 0
        self._done: dict[int, set[int]] = {}
        self._done_below: dict[int, int] = {}
        self._floors: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self.summary = Summary()

    def run(self) -> None:
        """Replay what was there when it starts. `summary` is right at any time, also after an error."""
        topic = self._route.topic
        spans = self._reader.spans(topic)
        places = self._reader.committed(topic, list(spans), stable=self._writer is not None)
        self._floors = receipts.floors(places, spans, self._route.topic_id)
        self._committed = dict(self._floors)
        self._total = sum(span.end - self._floors[partition] for partition, span in spans.items())
        self._read_receipts(spans)
        for partition, span in spans.items():
            if not self._run_partition(partition, span):
                break
        self._send()

    def _read_receipts(self, spans: Mapping[int, Span]) -> None:
        for partition, offset, found in receipts.read(self._reader, self._route.topic, self._route.topic_id):
            if offset >= self._floors.get(partition, 0):
                self._done.setdefault(partition, set()).add(offset)
            elif offset >= spans[partition].start and self._selection.takes(found.code, found.timestamp):
                self._done_below[partition] = self._done_below.get(partition, 0) + 1

    def _run_partition(self, partition: int, span: Span) -> bool:
        """Replay one partition; tell whether the selection may go on with the next."""
        self._count_done(self._done_below.get(partition, 0))
        floor, unbroken, before = self._floors[partition], True, self._passed
        for record in self._reader.between(self._route.topic, partition, floor, span.end):
            if self._room() == 0:
                return False
            # Once a dead letter is left waiting the offset stays before it; receipts tell of those behind it.
            unbroken = self._handle(record) and unbroken
            if unbroken:
                self._floors[partition] = record.offset + 1
            if len(self._batch) >= BATCH_RECORDS_MAX or self._batch_bytes >= BATCH_BYTES_MAX:
                self._send()
            self._pass(before + record.offset + 1 - floor)
        if unbroken:
            self._floors[partition] = span.end
        self._pass(before + span.end - floor)
        return True

    def _pass(self, passed: int) -> None:
        self._passed = passed
        self._progress(passed, self._total)

    def _room(self) -> int:
        """How many more may be selected."""
        limit = self._selection.limit
        return sys.maxsize if limit is None else limit - self.summary.selected

    def _count_done(self, count: int) -> None:
        count = min(count, self._room())
        self.summary.selected += count
        self.summary.already += count

    def _handle(self, record: Record) -> bool:
        """Add a dead letter to the batch if it is to be sent or parked; tell whether it is done with."""
        letter = DeadLetterRecord.of(record)
        selected = self._selection.takes(letter.code, record.timestamp_ms)
        if record.offset in self._done.get(record.partition, ()):
            self._count_done(int(selected))
            return True
        if not selected:
            return False
        if not (self._route.foreign or self._route.owns(letter)):
            origin = letter.reason.topic or UNKNOWN
            self.summary.foreign[origin] = self.summary.foreign.get(origin, 0) + 1
            return False
        self.summary.selected += 1
        if self._route.claim(letter).count >= self._replay_max:
            return self._add(letter, self._parked(record), "parked")
        if letter.reason.omitted and (found := self._originals.whole(letter)) is None:
            self.summary.lost += 1
            self._explain(letter, f"what it leaves out is no longer at {letter.origin}")
            return False
        whole = found if letter.reason.omitted and found is not None else record
        taken, value = self._edited(whole)
        return taken and self._add(letter, self._again(letter, whole, value), "sent")

    def _explain(self, letter: DeadLetterRecord, words: str) -> None:
        if len(self.summary.reasons) < FAILURES_MAX:
            self.summary.reasons.append(f"{letter.record.partition}:{letter.record.offset} {words}")

    def _edited(self, record: Record) -> tuple[bool, bytes | None]:
        """Return whether the record is to be sent, and with which value."""
        if self._edit is None:
            return True, record.value
        try:
            value = self._edit(record.value or b"")
        except (Exception, SystemExit) as error:  # noqa: BLE001 the user's function may raise anything
            self.summary.edit_failed += 1
            if len(self.summary.failures) < FAILURES_MAX:
                self.summary.failures.append(f"{record.partition}:{record.offset} {type(error).__name__}: {error}")
            return False, None
        if value is None:
            self.summary.left += 1
            return False, None
        if not isinstance(value, bytes | bytearray):
            raise ReplayError(
                f"--edit returned {type(value).__name__} for {record.partition}:{record.offset}",
                hint="let it return bytes, or None to leave the record where it is",
            )
        return True, bytes(value)

    def _again(self, letter: DeadLetterRecord, whole: Record, value: bytes | None) -> Outbound:
        """Make the record that it was before it was a dead letter, to where it stood first."""
        reason, route = letter.reason, self._route
        # What another topic calls a partition is none of this one's.
        known = route.owns(letter) and 0 <= reason.partition < route.features_partitions
        is_label = reason.topic == route.labels
        topic = route.labels if is_label and route.labels else route.features
        before = route.claim(letter)
        claim = replay_proof.ReplayClaim(before.count + 1, before.learned)
        secret = route.secrets.get(reason.partition, "") if known else ""
        partition = reason.partition
        signed = replay_proof.sign(claim, secret=secret, topic=topic, partition=partition, key=whole.key, value=value)
        original_ms = reason.timestamp_ms if reason.timestamp_ms is not None else -1
        if original_ms > self._now_ms() + _FUTURE_MS:
            # No broker takes it, and with it none of the others.
            original_ms = -1
        return Outbound(
            topic,
            reason.partition if known else None,
            whole.key,
            value,
            # Without a secret there is no history in which it could count.
            [*deadletter.strip(whole.headers), *(signed if secret else signed[:-1])],
            original_ms if original_ms >= 0 else max(letter.record.timestamp_ms, 0),
        )

    def _parked(self, record: Record) -> Outbound:
        return Outbound(
            parked_topic(self._route.topic),
            record.partition % self._route.parked_partitions,
            record.key,
            record.value,
            record.headers or (),
            max(record.timestamp_ms, 0),
        )

    def _add(self, letter: DeadLetterRecord, outbound: Outbound, action: Literal["sent", "parked"]) -> bool:
        """Add a record and its receipt to the batch; tell whether its topic takes it."""
        size = record_bytes(outbound.key, outbound.value, outbound.headers)
        if size > (most := self._route.bytes_max.get(outbound.topic, sys.maxsize)):
            self.summary.too_large += 1
            self._explain(letter, f"would have {size} bytes, and {outbound.topic} takes {most} (max.message.bytes)")
            return False
        if action == "sent":
            self.summary.to_send += 1
            self._show(letter)
        else:
            self.summary.to_park += 1
        self._note(letter, outbound, action)
        return True

    def _note(self, letter: DeadLetterRecord, outbound: Outbound, action: Literal["sent", "parked"]) -> None:
        record = letter.record
        written = receipts.Receipt(
            self._now_ms(),
            receipts.Target(outbound.topic, outbound.partition),
            action,
            self._route.claim(letter).count + (action == "sent"),
            letter.code,
            record.timestamp_ms,
            self._route.topic_id,
        )
        note = Outbound(
            receipts.topic_of(self._route.topic),
            record.partition % self._route.receipts_partitions,
            receipts.key_of(record.partition, record.offset),
            msgspec.json.encode(written),
            (),
            0,
        )
        self._batch.append((outbound, note))
        self._batch_bytes += len(outbound.value or b"") + len(outbound.key or b"")

    def _show(self, letter: DeadLetterRecord) -> None:
        at = letter.record.timestamp_ms
        group = self.summary.groups.setdefault(letter.code, Group(letter.code, 0, at, at, letter.reason.message))
        group.count += 1
        group.first, group.last = min(group.first, at), max(group.last, at)

    def _send(self) -> None:
        """Send the batch with its receipts, and the offsets as far as all before them is done."""
        moved = {p: offset for p, offset in self._floors.items() if offset != self._committed[p]}
        if self._writer is not None and (self._batch or moved):
            self._writer.write(
                [message for pair in self._batch for message in pair],
                topic=self._route.topic,
                offsets=moved,
                metadata=self._route.topic_id,
                membership=self._reader.membership(),
            )
            self._committed.update(moved)
            parked = sum(outbound.topic == parked_topic(self._route.topic) for outbound, _ in self._batch)
            self.summary.parked += parked
            self.summary.sent += len(self._batch) - parked
        self._batch.clear()
        self._batch_bytes = 0
