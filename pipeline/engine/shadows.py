"""The steps of shadows: models that see the records and labels of the model that answers, and answer nobody.

A shadow predicts a record after the model that answers has handled it, and learns a label when that model has learned
it; so it never sees a record that was refused. On what a shadow raises it is undone, and the fault is counted for it:
the record counts as one that it never saw, also when a label comes for it later. Only the errors of the store, which
are no model's fault, pass. A shadow that can't be undone is taken out of the shard.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec

from headrace.consumers.record import Record
from headrace.pipeline.engine import pairs
from headrace.pipeline.engine.pairs import Given
from headrace.pipeline.engine.prepared_record import PreparedRecord
from headrace.producers import prediction
from headrace.producers.prediction import PredictionForm
from headrace.state.labels.join_entry import RAISED, Entry, plain, unboxed
from headrace.state.models.model import Unlabelled
from headrace.state.shard import Shard
from headrace.state.shard_model import MODEL, ShardModel
from headrace.state.store.store_errors import STORE_ERRORS

T = TypeVar("T")

_PLAIN = {bool, int, float, str, list, type(None)}


def meet(shard: Shard, some: Iterable[ShardModel], record: Record, ts: int | msgspec.UnsetType) -> None:
    """Let some of the shadows note the key and the time of a record, if they have a model for each key."""
    key, at_ms = record.key, None if ts is msgspec.UNSET else ts
    for one in some:
        if one.model.can.keys and key is not None:
            _guarded(shard, one, key, partial(one.model.meet, key, at_ms, record.timestamp_ms))


def take(
    shard: Shard, prepared: PreparedRecord, features: dict[str, Any], *, served: Given, form: PredictionForm
) -> dict[str, Given]:
    """Let each shadow predict a record, and learn its label if it has one; return the answers by name.

    `features` are the event's as they came, and `served` is the answer that was sent. Each model brings its label, as
    it came, into a form of its own.
    """
    truth, key = prepared.truth, prepared.record.key
    raw = prepared.event.label if truth is not None and prepared.has_label else truth
    unlabelled = None if prepared.withheld else Unlabelled(prepared.at_ms)
    found = {one.name: take_one(shard, one, features, raw, unlabelled, key=key, form=form) for one in shard.shadows}
    if truth is not None and shard.history.challenges:
        pairs.note(shard, served, found, truth, at_ms=pairs.time_of(prepared.at_ms, prepared.record.timestamp_ms))
    return found


def answers_for_entry(shard: Shard, served: Given, others: Mapping[str, Given]) -> Any:
    """Return the answer that was sent, and those of the shadows, as the entry of features that wait has them."""
    if not others and shard.answering.name == MODEL:
        return plain(served.answer)
    answers = {shard.answering.name: plain(served.answer), **{name: given.answer for name, given in others.items()}}
    return answers | pairs.chances_for_entry(shard, {shard.answering.name: served, **others})


def take_one(
    shard: Shard,
    one: ShardModel,
    features: dict[str, Any],
    label: Any,
    unlabelled: Unlabelled | None,
    *,
    key: bytes | None,
    form: PredictionForm,
) -> Given:
    """Do as `take` for one shadow, with a label as it came; return its answer, `RAISED` where there is none.

    A shadow that learns without labels learns `unlabelled` instead, if that is there.
    """

    def step() -> Given:
        if key is None and one.model.can.keys:
            raise ValueError("the record has no key")
        truth = None if label is None else one.model.label(label)
        own = unlabelled if one.model.can.unlabelled else truth
        # A function of the user's own may change the features in its hands.
        given = features.copy()
        answer, proba = one.model.predict(given, key or b"", label=truth)
        answer = _bounded(form.decide(answer, proba) if one.model.task == "binary" else answer)
        if own is not None:
            one.model.learn(given, own, key or b"")
        one.model.keep(features.copy(), own, key or b"")
        if truth is not None:
            one.score(unboxed(answer), truth, shard.model_version)
        return Given(answer, proba)

    found = _guarded(shard, one, key, step)
    return Given(RAISED, None) if found is None else found


def learn(shard: Shard, entry: Entry, features: dict[str, Any], label: Any, *, truth: Any, scored: bool) -> None:
    """Let each shadow learn a label that came after its features, and score its answer if it is to be `scored`.

    The label is as it came; `truth` is the same in the form of the model that answers.
    """
    for one in shard.shadows:
        answer = entry.answer_of(one.name)
        if answer == RAISED:
            continue

        def step(one: ShardModel = one, answer: Any = answer) -> None:
            own, key = one.model.label(label), entry.key or b""
            if not one.model.can.unlabelled:
                one.model.learn(features.copy(), own, key)
                one.model.keep(features.copy(), own, key, predicted=False)
            if scored:
                one.score(answer, own, entry.version)

        _guarded(shard, one, entry.key, step)
    if scored and shard.history.challenges:
        pairs.note_late(shard, entry, truth)


def _bounded(answer: Any) -> Any:
    """Return an answer as an entry holds it. Raises TypeError or ValueError for one that no prediction could have."""
    answer = plain(answer)
    size = len(msgspec.msgpack.encode(answer))
    if type(answer) not in _PLAIN or size > prediction.BYTES_MAX:
        raise ValueError(f"the answer is a {type(answer).__name__} of {size} bytes")
    return answer


def _guarded(shard: Shard, one: ShardModel, key: bytes | None, step: Callable[[], T]) -> T | None:
    """Do a step of a shadow; return None, and count a fault, where it raises."""
    try:
        return step()
    except STORE_ERRORS:
        raise
    except (Exception, SystemExit):  # noqa: BLE001 a model may raise anything, and a shadow stops nothing
        shard.fault(one, key or b"")
    return None
