"""What happens to a label, and to features whose label is still to come. No Kafka, no Redis and no clock in it."""

from typing import Any, NamedTuple

import msgspec

from headrace.consumers.record import (
    SKIPPED,
    LabelRecord,
    LabelRecordDecoder,
    Record,
    RecordDecoder,
    Skipped,
)
from headrace.consumers.refusal import Refusal
from headrace.pipeline.engine import shadows
from headrace.pipeline.engine.prepared_record import PreparedRecord
from headrace.pipeline.engine.raised import refusal_of
from headrace.state.event_time import StrayTime
from headrace.state.labels.join_entry import Entry
from headrace.state.labels.label_join import Labels
from headrace.state.models.label import LabelError
from headrace.state.shard import Shard
from headrace.state.store.store_errors import STORE_ERRORS


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

    def note(self, shard: Shard, prepared: PreparedRecord, *, kept: bytes, answer: Any) -> Entry | None:
        """Note features that are predicted from: their label is learned with them, or they wait for it.

        Returns the entry of features that wait; its answer may be set later.
        """
        labels, record, event = shard.labels, prepared.record, prepared.event
        assert labels is not None
        if prepared.truth is None and prepared.labelled:
            # Its label was learned under this id, or at the offset from which the record was replayed, or waits there.
            return None
        at_ms = labels.event_ms(None if event.ts is msgspec.UNSET else event.ts, record.timestamp_ms)
        entry = Entry.of(
            at_ms=at_ms, logged_ms=record.timestamp_ms, order=record.offset, value=kept, key=record.key,
            answer=answer, version=shard.model_version,
        )  # fmt: skip
        if prepared.truth is None:
            labels.add_waiting(prepared.id, entry)
        else:
            labels.add_learned(prepared.id, entry, prepared.truth, own=prepared.has_label)
        self.end_waits(shard, labels)
        return entry if prepared.truth is None else None

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
                    features = self._decoder.features(entry.value)
                    shadows.learn(shard, entry, features, labels.default, truth=label, scored=True)

    def take(self, shard: Shard, record: Record, delays_ms: list[int]) -> Skipped | Refusal | None:
        """Handle one record of the labels topic; note after how long it was joined.

        Returns that it is skipped, which is counted nowhere, since it has no label; or why it is refused.
        """
        labels, matched = shard.labels, self.match(shard, record)
        assert labels is not None
        if not isinstance(matched, MatchedLabel):
            return matched
        entry, label = matched.entry, matched.label
        try:
            self._learn(shard, entry, label)
        except STORE_ERRORS:
            # No fault of the record's: a key's model could not be fetched.
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 a model may raise anything, and none of it may stop the stream
            shard.model.undo(entry.key or b"")
            labels.tally.refused += 1
            return refusal_of(error, "join", prefix=self._decoder.feature_prefix)
        self.score(shard, matched, delays_ms)
        if shard.shadows:
            features = self._decoder.features(entry.value)
            is_first = matched.delay_ms is not None
            shadows.learn(shard, entry, features, matched.raw, truth=label, scored=is_first)
        self.note_learned(shard, matched)
        return None

    def match(self, shard: Shard, record: Record) -> "MatchedLabel | Skipped | Refusal | None":
        """Decode a record of the labels topic, and find the features that are to be learned with it.

        Returns that it is skipped, why it is refused, or None for a label that teaches the model nothing.
        """
        labels, found = shard.labels, self._label_decoder.decode(record)
        assert labels is not None
        if isinstance(found, Skipped):
            return SKIPPED
        labels.tally.records += 1
        if isinstance(found, Refusal):
            labels.tally.refused += 1
            return found
        self.pass_time(shard, record, found.ts)
        try:
            label = shard.model.label(found.label)
        except LabelError as error:
            labels.tally.refused += 1
            return Refusal("bad_label", "validate", str(error), self._label_decoder.label_field)
        ts = None if found.ts is msgspec.UNSET else found.ts
        verdict, entry = labels.match(found.id, label, at_ms=ts, logged_ms=record.timestamp_ms, order=record.offset)
        if verdict not in {"learn", "correct"}:
            self.end_waits(shard, labels)
            return None
        delay_ms = _delay_ms(labels, record, ts, entry) if verdict == "learn" else None
        return MatchedLabel(found.id, entry, label, found.label, delay_ms)

    def score(self, shard: Shard, matched: "MatchedLabel", delays_ms: list[int]) -> None:
        """Score the answer to the features of a label that was learned; a correction scores nothing."""
        if matched.delay_ms is not None:
            name, entry = shard.answering.name, matched.entry
            shard.answering.score(entry.answer_of(name), matched.label, entry.version)
            delays_ms.append(matched.delay_ms)

    def note_learned(self, shard: Shard, matched: "MatchedLabel") -> None:
        """Note that the features of a label were learned with it."""
        labels = shard.labels
        assert labels is not None
        labels.note_learned(matched.id, matched.entry, matched.label)
        self.end_waits(shard, labels)

    def _learn(self, shard: Shard, entry: Entry, label: Any) -> None:
        if shard.model.can.unlabelled:
            # It learned the features when they were read; their label only scores.
            return
        features, key = self._decoder.features(entry.value), entry.key or b""
        shard.model.learn(features.copy(), label, key)
        shard.model.keep(features, label, key, predicted=False)
        shard.counts.learned += 1


class MatchedLabel(NamedTuple):
    """A label, also as it came (`raw`), that is to be learned with an entry; `delay_ms` is None for a correction."""

    id: str
    entry: Entry
    label: Any
    raw: Any
    delay_ms: int | None


def _delay_ms(labels: Labels, record: Record, ts: int | None, entry: Entry) -> int:
    """Return after how long a label came to its features."""
    happened_ms = record.timestamp_ms if ts is None else labels.event_ms(ts, record.timestamp_ms)
    return max(0, happened_ms - (entry.logged_ms if ts is None else entry.at_ms))
