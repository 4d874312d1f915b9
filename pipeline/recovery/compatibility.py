"""Whether a snapshot, or a mark, is of this topic, scope and model, and what to do where it is not. Pure.

A model that goes on from another's state would answer from what it never learned.
"""

import msgspec

from headrace.consumers.topics import Topic
from headrace.pipeline.recovery.offset_metadata import OffsetMetadata
from headrace.state.models.model import Model, Scope
from headrace.state.models.spec import brief_difference, difference
from headrace.state.snapshot import Snapshot

_SCOPES: dict[Scope, str] = {
    "partition": "one for each partition",
    "key": "one for each key",
    "global": "one for all workers",
}

_UNDO = "undo the change, start under another `name`"
# How the codec of compiled models is called.
_COMPILED = "arrays-"


class Mismatch(msgspec.Struct, frozen=True):
    """What does not fit, and what mends it; the `hint` is empty where only a new history is left."""

    message: str
    hint: str = ""


def mismatch(snapshot: Snapshot, *, topic: Topic, model: Model) -> Mismatch | None:
    """Compare a snapshot with the topic that is read and the models that are asked for; None where it is theirs."""
    return _topics(snapshot, topic) or model_mismatch(
        snapshot, scope=model.can.scope, spec=model.spec, codec=model.codec
    )


def model_mismatch(snapshot: Snapshot, *, scope: Scope, spec: str, codec: str) -> Mismatch | None:
    """Compare a snapshot with the models that are asked for; None where it is of those."""
    if snapshot.scope != scope:
        return _other_scope(snapshot.scope, scope, "in the store")
    if snapshot.spec != spec:
        how = difference(snapshot.spec, spec)
        return Mismatch(f"model.py builds another model than the one in the store: {how}", _UNDO)
    if snapshot.codec != codec:
        return Mismatch(f"the snapshot was written by {snapshot.codec}; here is {codec}", _mend(snapshot.codec, codec))
    return None


def mark_mismatch(last: OffsetMetadata, *, scope: Scope, spec: str) -> Mismatch | None:
    """Compare a mark with the models that are to learn its history again; None where it is of those, or empty."""
    if not last.records or not last.model:
        return None
    before = next((name for name in _SCOPES if name[0] == last.model[0]), scope)
    if before != scope:
        return _other_scope(before, scope, "that learned the log")
    how = brief_difference(last.model, spec, scope)
    return Mismatch(f"model.py builds another model ({how}) than the one that learned the log", _UNDO) if how else None


def _other_scope(before: Scope, now: Scope, which: str) -> Mismatch:
    return Mismatch(
        f'the models {which} are {_SCOPES[before]}, and model.scope = "{now}" asks for {_SCOPES[now]}',
        f'set model.scope = "{before}" again, start under another `name`',
    )


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


def _mend(written: str, here: str) -> str:
    """Say what makes a snapshot readable again that was `written` by another codec than the one that is `here`."""
    if written.startswith(_COMPILED) and not here.startswith(_COMPILED):
        return "set model.compile = true again (with topics.labels no model is compiled)"
    if here.startswith(_COMPILED) and not written.startswith(_COMPILED):
        return "set model.compile = false again"
    return "install that release of River"
