"""Replay: sends dead letters into the stream again, each of them once, even if it is killed and runs again.

For each dead letter that it sends, the replay writes a receipt to a compacted topic beside the dead letters. One
transaction holds the record, its receipt, and the group's offset below which all dead letters of the partition are
done. `init_transactions` ends a transaction that a killed replay left open, so the receipts that are read after it are
complete. A replay starts at the group's offset; above it, the receipts decide.

The offset and the receipts name the id of the dead-letter topic: if that topic is deleted and created again, the same
partition and offset is another record.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from headrace.consumers.reader import Reader, Span
from headrace.consumers.record import Record
from headrace.pipeline.config.references import FunctionMissing, load_function
from headrace.pipeline.dlq import receipts
from headrace.pipeline.dlq.dead_letters import DeadLetterRecord, Selection
from headrace.pipeline.dlq.original import Originals
from headrace.pipeline.hinted_error import HintedError
from headrace.producers import deadletter, replay_proof
from headrace.producers.record_size import record_bytes
from headrace.producers.writer import Outbound, Writer

UNKNOWN = "unknown"
"""The name of the topic for dead letters whose headers name none."""
BATCH_RECORDS_MAX = 500
BATCH_BYTES_MAX = 8_388_608
# How far ahead the timestamp of a record may be, by default (message.timestamp.after.max.ms).
_FUTURE_MS = 3_600_000
FAILURES_MAX = 10
"""The number of failures of the edit function that are kept to be shown; all of them are counted."""

Edit = Callable[[bytes], Any]


class ReplayError(HintedError):
    """Raised when a replay with these options or topics is not possible."""


class Route(msgspec.Struct, frozen=True):
    """The topics of a replay: where the dead letters are, where they go, and the partitions of each.

    The labels topic has as many partitions as the features topic. `group` is the pipeline's consumer group. `secrets`
    sign the sent records, by partition. `bytes_max` is the size of the largest record that each topic takes. With
    `foreign`, dead letters of other pipelines' topics are sent, too. `is_own` means that `topic` holds this pipeline's
    dead letters: one that names no origin then belongs to this pipeline.
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

    def owns(self, dead_letter: DeadLetterRecord) -> bool:
        """Return whether a dead letter came from this pipeline's features or labels; any system may have written it."""
        origin = dead_letter.reason.topic
        return origin in {self.features, self.labels} or (not origin and self.is_own)

    def claim(self, dead_letter: DeadLetterRecord) -> replay_proof.ReplayClaim:
        """Return the number of earlier replays of the record, and whether this pipeline's model has learned it.

        The pipeline's own dead letters say so themselves. In those of another system, only headers count that a replay
        of this pipeline has signed.
        """
        reason, record = dead_letter.reason, dead_letter.record
        if reason.dialect == "headrace" and reason.group == self.group:
            return replay_proof.ReplayClaim(reason.replay_count, deadletter.is_learned(record.headers))
        original = msgspec.structs.replace(record, partition=reason.partition)
        return replay_proof.read(
            record.headers, secret=self.secrets.get(reason.partition, ""), topic=reason.topic, record=original
        )


class Group(msgspec.Struct):
    """The dead letters of one code that are to be sent: their number, first and last time (ms), and one message."""

    code: str
    count: int
    first: int
    last: int
    example: str


class Summary(msgspec.Struct):
    """The counts of a replay, or of its dry run. `selected` is the sum of the numbers that follow.

    `lost` counts dead letters whose record is incomplete and whose original is no longer in the log. `too_large` counts
    those that are too large for their topic. `reasons` explains the first of both. `foreign` counts by topic the dead
    letters of other pipelines, which are not in `selected`.
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
    """Return the topic for those dead letters of `topic` that were replayed too often."""
    return f"{topic}.parked"


def load_edit(reference: str, directory: Path) -> Edit:
    """Import `module:function` from the folder of the configuration. Raises ReplayError."""
    try:
        return load_function(reference, directory)
    except FunctionMissing as error:
        raise ReplayError(f"--edit {reference} {error}", hint=error.hint) from error


class Replay:
    """Go through the dead letters of a route, in the order of partitions and offsets.

    Without a writer nothing is sent, and the summary tells what would be sent. `edit` changes the values on their way.
    `originals` reads the originals of incomplete dead letters. `progress` is called with the number of offsets that are
    done, and the number of all.
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
        """Replay the dead letters that are there at the start. `summary` is always correct, also after an error."""
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
            elif offset >= spans[partition].start and self._selection.takes(
                found.code, found.timestamp, at=(partition, offset)
            ):
                self._done_below[partition] = self._done_below.get(partition, 0) + 1

    def _run_partition(self, partition: int, span: Span) -> bool:
        """Replay one partition; return whether the limit of the selection leaves room for the next partition."""
        self._count_done(self._done_below.get(partition, 0))
        floor, is_gapless, before = self._floors[partition], True, self._passed
        for record in self._reader.between(self._route.topic, partition, floor, span.end):
            if self._room() == 0:
                return False
            # The offset stops at the first dead letter that keeps waiting. Receipts record those behind it.
            is_gapless = self._handle(record) and is_gapless
            if is_gapless:
                self._floors[partition] = record.offset + 1
            if len(self._batch) >= BATCH_RECORDS_MAX or self._batch_bytes >= BATCH_BYTES_MAX:
                self._send()
            self._pass(before + record.offset + 1 - floor)
        if is_gapless:
            self._floors[partition] = span.end
        self._pass(before + span.end - floor)
        return True

    def _pass(self, passed: int) -> None:
        self._passed = passed
        self._progress(passed, self._total)

    def _room(self) -> int:
        """Return the number of dead letters that may still be selected."""
        limit = self._selection.limit
        return sys.maxsize if limit is None else limit - self.summary.selected

    def _count_done(self, count: int) -> None:
        count = min(count, self._room())
        self.summary.selected += count
        self.summary.already += count

    def _handle(self, record: Record) -> bool:
        """Add a dead letter to the batch if it is to be sent or parked; return whether it is done."""
        dead_letter = DeadLetterRecord.of(record)
        at = record.partition, record.offset
        selected = self._selection.takes(dead_letter.code, record.timestamp_ms, at=at)
        if record.offset in self._done.get(record.partition, ()):
            self._count_done(int(selected))
            return True
        if not selected:
            return False
        if not (self._route.foreign or self._route.owns(dead_letter)):
            origin = dead_letter.reason.topic or UNKNOWN
            self.summary.foreign[origin] = self.summary.foreign.get(origin, 0) + 1
            return False
        self.summary.selected += 1
        if self._route.claim(dead_letter).count >= self._replay_max:
            return self._add(dead_letter, self._to_park(record), "parked")
        if dead_letter.reason.omitted and (found := self._originals.whole(dead_letter)) is None:
            self.summary.lost += 1
            self._explain(dead_letter, f"the part that it leaves out is no longer at {dead_letter.origin}")
            return False
        whole = found if dead_letter.reason.omitted and found is not None else record
        taken, value = self._edited(whole)
        return taken and self._add(dead_letter, self._to_send(dead_letter, whole, value), "sent")

    def _explain(self, dead_letter: DeadLetterRecord, words: str) -> None:
        if len(self.summary.reasons) < FAILURES_MAX:
            self.summary.reasons.append(f"{dead_letter.record.partition}:{dead_letter.record.offset} {words}")

    def _edited(self, record: Record) -> tuple[bool, bytes | None]:
        """Return whether to send the record, and its value after the edit function."""
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

    def _to_send(self, dead_letter: DeadLetterRecord, whole: Record, value: bytes | None) -> Outbound:
        """Build the record as it was before it became a dead letter, for its own topic and partition."""
        reason, route = dead_letter.reason, self._route
        # A partition number of another topic means nothing in this one.
        known = route.owns(dead_letter) and 0 <= reason.partition < route.features_partitions
        is_label = reason.topic == route.labels
        topic = route.labels if is_label and route.labels else route.features
        before = route.claim(dead_letter)
        claim = replay_proof.ReplayClaim(before.count + 1, before.learned)
        secret = route.secrets.get(reason.partition, "") if known else ""
        partition = reason.partition
        signed = replay_proof.sign(claim, secret=secret, topic=topic, partition=partition, key=whole.key, value=value)
        original_ms = reason.timestamp_ms if reason.timestamp_ms is not None else -1
        if original_ms > self._now_ms() + _FUTURE_MS:
            # The broker would refuse this timestamp, and with it the whole batch.
            original_ms = -1
        return Outbound(
            topic,
            reason.partition if known else None,
            whole.key,
            value,
            # Without a secret the pipeline has no history, and no replay to prove.
            [*deadletter.strip(whole.headers), *(signed if secret else signed[:-1])],
            original_ms if original_ms >= 0 else max(dead_letter.record.timestamp_ms, 0),
        )

    def _to_park(self, record: Record) -> Outbound:
        return Outbound(
            parked_topic(self._route.topic),
            record.partition % self._route.parked_partitions,
            record.key,
            record.value,
            record.headers or (),
            max(record.timestamp_ms, 0),
        )

    def _add(self, dead_letter: DeadLetterRecord, outbound: Outbound, action: Literal["sent", "parked"]) -> bool:
        """Add a record and its receipt to the batch, unless the record is too large; return whether it was added."""
        size = record_bytes(outbound.key, outbound.value, outbound.headers)
        if size > (size_max := self._route.bytes_max.get(outbound.topic, sys.maxsize)):
            self.summary.too_large += 1
            words = f"would have {size} bytes, and {outbound.topic} takes {size_max} (max.message.bytes)"
            self._explain(dead_letter, words)
            return False
        if action == "sent":
            self.summary.to_send += 1
            self._count_group(dead_letter)
        else:
            self.summary.to_park += 1
        self._batch.append((outbound, self._receipt(dead_letter, outbound, action)))
        self._batch_bytes += len(outbound.value or b"") + len(outbound.key or b"")
        return True

    def _receipt(
        self, dead_letter: DeadLetterRecord, outbound: Outbound, action: Literal["sent", "parked"]
    ) -> Outbound:
        record = dead_letter.record
        receipt = receipts.Receipt(
            self._now_ms(),
            receipts.Target(outbound.topic, outbound.partition),
            action,
            self._route.claim(dead_letter).count + (action == "sent"),
            dead_letter.code,
            record.timestamp_ms,
            self._route.topic_id,
        )
        return Outbound(
            receipts.topic_of(self._route.topic),
            record.partition % self._route.receipts_partitions,
            receipts.key_of(record.partition, record.offset),
            msgspec.json.encode(receipt),
            (),
            0,
        )

    def _count_group(self, dead_letter: DeadLetterRecord) -> None:
        at, code = dead_letter.record.timestamp_ms, dead_letter.code
        group = self.summary.groups.setdefault(code, Group(code, 0, at, at, dead_letter.reason.message))
        group.count += 1
        group.first, group.last = min(group.first, at), max(group.last, at)

    def _send(self) -> None:
        """Send the batch with its receipts and, for each partition, the offset below which all is done."""
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
