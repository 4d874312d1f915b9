"""What happens to a label, and to features whose label is still to come. No Kafka, no Redis and no clock in it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from headrace.consumers.record import (
    SKIPPED,
    Event,
    Label,
    LabelRecord,
    LabelRecordDecoder,
    Record,
    RecordDecoder,
    Skipped,
)
from headrace.consumers.refusal import Refusal
from headrace.pipeline.engine import shadows
from headrace.state.event_time import StrayTime
from headrace.state.labels.join_entry import ENTRY_BYTES, Entry
from headrace.state.labels.label_join import Labels
from headrace.state.models.learner import LabelError
from headrace.state.shard import Shard
from headrace.state.store.store_errors import STORE_ERRORS

LearnValues = Callable[[Shard, Sequence[bytes], Sequence[Any]], Sequence[Exception | None]]
"""Learns the features of records with their labels, in order; returns the model's error where it raised."""


class LabelsStep:
    """Bring labels to the features that they belong to. `decoder` reads features again that have waited."""

    def __init__(self, *, decoder: RecordDecoder, label_decoder: LabelRecordDecoder) -> None:
        self._decoder = decoder
        self._label_decoder = label_decoder

    def truth(self, shard: Shard, labels: Labels, id_: str, own: Any) -> Any:
        """Return the label with which the model learns features now, None for none.

        It is their own label, or one that came before them. An id whose label was learned gets no second one.
        """
        if labels.is_answered(id_):
            return None
        early = labels.find_early(id_) if own is None else None
        if early is None:
            return own
        try:
            return shard.model.label(early)
        except LabelError:
            # Since it came, the model has seen classes of the other kind.
            return None

    def note(
        self,
        shard: Shard,
        record: Record,
        event: Event,
        id_: str,
        *,
        kept: bytes,
        answer: Any,
        labelled: bool,
        label: Any,
    ) -> None:
        """Note features that were predicted from: their label was learned with them, or they wait for it.

        `kept` is what the decoder reads them from again. `labelled` says that they need no label: they came with one,
        or are a replay of a record that was learned, or that waits.
        """
        labels = shard.labels
        assert labels is not None
        if label is None and labelled:
            # Its label was learned under this id, or at the offset from which the record was replayed, or waits there.
            return
        at_ms = labels.event_ms(None if event.ts is msgspec.UNSET else event.ts, record.timestamp_ms)
        entry = Entry.of(
            at_ms=at_ms, logged_ms=record.timestamp_ms, order=record.offset, value=kept, key=record.key,
            answer=answer, version=shard.model_version,
        )  # fmt: skip
        if label is None:
            labels.add_waiting(id_, entry)
        else:
            labels.add_learned(id_, entry, label, own=event.label is not msgspec.UNSET)
        self.end_waits(shard, labels)

    def pass_time(self, shard: Shard, record: Record, ts: int | msgspec.UnsetType) -> None:
        """Let the time of a record pass, and give what was waited for too long the outcome that is configured."""
        labels = shard.labels
        assert labels is not None
        features = type(record) is not LabelRecord
        told_ms = None if ts is msgspec.UNSET else ts
        if not labels.advance(told_ms, record.timestamp_ms, features=features):
            ahead_ms = (record.timestamp_ms if told_ms is None else told_ms) - max(0, labels.clock.now_ms)
            shard.strays.note(StrayTime(record.offset, ahead_ms, labels=not features))
        self.end_waits(shard, labels)

    def end_waits(self, shard: Shard, labels: Labels) -> None:
        """Learn the default label, if there is one, with the features whose wait has ended."""
        for entry in labels.drain_expired():
            if labels.default is None:
                continue
            try:
                label = shard.model.label(labels.default)
                self._learn(shard, entry, label)
            except LabelError:
                # The model has seen classes of another kind than the default's; one such would spoil it for good.
                continue
            except STORE_ERRORS:
                raise
            except (Exception, SystemExit):  # noqa: BLE001 there is no record to refuse: the wait has ended, and that is counted
                shard.model.undo(entry.key or b"")
            else:
                shard.answering.score(entry.answer_of(shard.answering.name), label, entry.version)
                if shard.shadows:
                    shadows.learn(shard, entry, self._decoder.features(entry.value), labels.default, scored=True)

    def take(self, shard: Shard, record: Record, delays_ms: list[int]) -> Skipped | Refusal | None:
        """Handle one record of the labels topic; note after how long it was joined.

        Return that it is skipped, which is counted nowhere, since it has no label; or why it is refused.
        """
        labels = shard.labels
        assert labels is not None
        found = self._label_decoder.decode(record)
        if isinstance(found, Skipped):
            return SKIPPED
        labels.tally.records += 1
        refusal = found if isinstance(found, Refusal) else self._take(shard, labels, record, found, delays_ms)
        if refusal is not None:
            labels.tally.refused += 1
        return refusal

    def _take(self, shard: Shard, labels: Labels, record: Record, found: Label, delays_ms: list[int]) -> Refusal | None:
        self.pass_time(shard, record, found.ts)
        try:
            label = shard.model.label(found.label)
        except LabelError as error:
            return Refusal("bad_label", "validate", str(error), self._label_decoder.label_field)
        ts = None if found.ts is msgspec.UNSET else found.ts
        verdict, entry = labels.match(found.id, label, at_ms=ts, logged_ms=record.timestamp_ms, order=record.offset)
        if verdict in {"learn", "correct"}:
            try:
                self._learn(shard, entry, label)
            except STORE_ERRORS:
                # No fault of the record's: a key's model could not be fetched.
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 a model may raise anything, and none of it may stop the stream
                shard.model.undo(entry.key or b"")
                return Refusal("learn_failed", "join", f"the model raised {type(error).__name__}: {error}")
            if verdict == "learn":
                shard.answering.score(entry.answer_of(shard.answering.name), label, entry.version)
                delays_ms.append(_delay_ms(labels, record, ts, entry))
            if shard.shadows:
                features = self._decoder.features(entry.value)
                shadows.learn(shard, entry, features, found.label, scored=verdict == "learn")
            labels.note_learned(found.id, entry, label)
        self.end_waits(shard, labels)
        return None

    def take_run(
        self, shard: Shard, records: Sequence[Record], delays_ms: list[int], *, learn: LearnValues
    ) -> tuple[int, dict[int, Refusal]]:
        """Handle a run of label records as `take` does, with one call to `learn`.

        Returns the number of good labels, and the refused ones by position; the others are skipped. There is no default
        label. A label is settled after the run, unless that could change what becomes of a later one: then all labels
        before that one are learned first.
        """
        labels = shard.labels
        assert labels is not None
        refusals: dict[int, Refusal] = {}
        run = _Run(shard, labels, delays_ms, refusals, learn, features=self._decoder.features)
        count = 0
        for position, record in enumerate(records):
            found = self._label_decoder.decode(record)
            if isinstance(found, Skipped):
                continue
            count += 1
            if isinstance(found, Refusal):
                refusals[position] = found
                continue
            ts = None if found.ts is msgspec.UNSET else found.ts
            if not run.may_go_on(found.id, record, ts):
                run.settle()
            self.pass_time(shard, record, found.ts)
            try:
                label = shard.model.label(found.label)
            except LabelError as error:
                refusals[position] = Refusal("bad_label", "validate", str(error), self._label_decoder.label_field)
                continue
            verdict, entry = labels.match(found.id, label, at_ms=ts, logged_ms=record.timestamp_ms, order=record.offset)
            if verdict in {"learn", "correct"}:
                delay_ms = _delay_ms(labels, record, ts, entry) if verdict == "learn" else None
                run.add(_Learning(position, found.id, entry, label, found.label, delay_ms), record)
            if verdict == "correct":
                # It moves its entry behind all that are remembered, which decides what is forgotten next.
                run.settle()
        run.settle()
        self.end_waits(shard, labels)
        labels.tally.records += count
        labels.tally.refused += len(refusals)
        return count - len(refusals), refusals

    def _learn(self, shard: Shard, entry: Entry, label: Any) -> None:
        features, key = self._decoder.features(entry.value), entry.key or b""
        shard.model.learn(features.copy(), label, key)
        shard.model.keep(features, label, key, predicted=False)
        shard.counts.learned += 1


class _Learning(NamedTuple):
    """A label, also as it came (`raw`), that is to be learned with an entry; `delay_ms` is None for a correction."""

    position: int
    id: str
    entry: Entry
    label: Any
    raw: Any
    delay_ms: int | None


class _Run:
    """The labels of a run that are to be learned together."""

    def __init__(
        self,
        shard: Shard,
        labels: Labels,
        delays_ms: list[int],
        refusals: dict[int, Refusal],
        learn: LearnValues,
        *,
        features: Callable[[bytes], dict[str, Any]],
    ) -> None:
        self._shard, self._labels = shard, labels
        self._delays_ms, self._refusals = delays_ms, refusals
        self._learn = learn
        self._features = features
        self._begin()

    def _begin(self) -> None:
        self._waiting: dict[str, _Learning] = {}
        self._bytes = 0

    def may_go_on(self, id_: str, record: Record, ts: int | None) -> bool:
        """Return whether the next label may be judged before those that wait here are learned."""
        model, told_ms = self._shard.model, max(record.timestamp_ms, -1 if ts is None else ts)
        if id_ in self._waiting or (model.task == "multiclass" and not model.classes):
            # The kind of the first class decides which labels are good.
            return not self._waiting
        count, size = len(self._waiting) + 1, self._bytes + _size(record)
        return not self._waiting or self._labels.keeps_all(told_ms=told_ms, count=count, size=size)

    def add(self, one: _Learning, record: Record) -> None:
        """Let a label wait."""
        self._waiting[one.id] = one
        self._bytes += _size(record)

    def settle(self) -> None:
        """Learn the labels that wait, and settle or refuse each."""
        shard, labels, waiting = self._shard, self._labels, list(self._waiting.values())
        self._begin()
        if not waiting:
            return
        errors = self._learn(shard, [one.entry.value for one in waiting], [one.label for one in waiting])
        for one, error in zip(waiting, errors, strict=True):
            if error is not None:
                words = f"the model raised {type(error).__name__}: {error}"
                self._refusals[one.position] = Refusal("learn_failed", "join", words)
                continue
            shard.counts.learned += 1
            if one.delay_ms is not None:
                shard.answering.score(one.entry.answer_of(shard.answering.name), one.label, one.entry.version)
                self._delays_ms.append(one.delay_ms)
            if shard.shadows:
                features = self._features(one.entry.value)
                shadows.learn(shard, one.entry, features, one.raw, scored=one.delay_ms is not None)
            labels.note_learned(one.id, one.entry, one.label)


def _delay_ms(labels: Labels, record: Record, ts: int | None, entry: Entry) -> int:
    """Return after how long a label came to its features."""
    happened_ms = record.timestamp_ms if ts is None else labels.event_ms(ts, record.timestamp_ms)
    return max(0, happened_ms - (entry.logged_ms if ts is None else entry.at_ms))


def _size(record: Record) -> int:
    """Return the bytes that an entry of this label takes at most."""
    return len(record.value or b"") + ENTRY_BYTES
