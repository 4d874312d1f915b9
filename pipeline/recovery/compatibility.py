"""Whether a snapshot, or a mark, is of this topic, scope and model, and what to do where it is not. Pure.

A model that goes on from another's state would answer from what it never learned. A model that has learned nothing may
be replaced by another one at any time.
"""

from headrace.consumers.topics import Topic
from headrace.pipeline.recovery.consistency import CHOICES, FRESH, PartitionFacts, StateError
from headrace.pipeline.recovery.offset_metadata import OffsetMetadata
from headrace.state.model_check import SCOPES, UNDO, Mismatch, model_mismatch, other_scope
from headrace.state.models.model import Model, Scope
from headrace.state.models.spec import brief_difference
from headrace.state.snapshot import Snapshot


def check(snapshot: Snapshot, *, topic: Topic, model: Model) -> None:
    """Raise StateError where a snapshot is of another topic or model than these."""
    found = mismatch(snapshot, topic=topic, model=model)
    if found is not None:
        hint = f"{found.hint}, or {FRESH}" if found.hint else CHOICES
        raise StateError(f"partition {snapshot.partition}: {found.message}", hint=hint)


def check_mark(facts: PartitionFacts, model: Model) -> None:
    """Raise StateError where another model left the mark than the one that is to relearn its history."""
    last = facts.mark
    if last is not None and last.entries:
        # The journal tells which models learned the history; whether they are the same is seen as it is repeated.
        return
    found = None if last is None else mark_mismatch(last, scope=model.can.scope, spec=model.spec)
    if found is not None:
        message = f"partition {facts.partition}, at offset {facts.place.committed}: {found.message}"
        raise StateError(message, hint=f"{found.hint}, or {FRESH}")


def mismatch(snapshot: Snapshot, *, topic: Topic, model: Model) -> Mismatch | None:
    """Compare a snapshot with the topic that is read and the models that are asked for; None where it is theirs."""
    if (found := _topics(snapshot, topic)) is not None or not snapshot.counts.learned:
        return found
    return model_mismatch(snapshot.answering, scope=model.can.scope, spec=model.spec, codec=model.codec)


def mark_mismatch(last: OffsetMetadata, *, scope: Scope, spec: str) -> Mismatch | None:
    """Compare a mark with the models that are to learn its history again; None where it is of those, or taught none."""
    if not last.learned or not last.model:
        return None
    before = next((name for name in SCOPES if name[0] == last.model[0]), scope)
    if before != scope:
        return other_scope(before, scope, "that learned the log")
    how = brief_difference(last.model, spec, scope)
    return Mismatch(f"model.py builds another model ({how}) than the one that learned the log", UNDO) if how else None


def _topics(snapshot: Snapshot, topic: Topic) -> Mismatch | None:
    if snapshot.topic != topic.name or (topic.id and snapshot.topic_id != topic.id):
        return Mismatch(
            f"the model was taught from another topic than {topic.name} as it is now (deleted and made again?)"
        )
    labels, join = topic.labels, snapshot.join
    if labels is not None and join is not None and (join.topic, join.topic_id) != (labels.name, labels.id):
        return Mismatch(
            f"its labels came from another topic than {labels.name} as it is now (renamed, or deleted and made again?)"
        )
    return None
