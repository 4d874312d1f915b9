"""Pairs of losses: what the champion and each challenger answered to the same features, and the first label for them.

Both answered before they learned, when the features came. Where the label comes later, the answers wait for it beside
the features. Where the loss needs probabilities, those wait, too.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from headrace.state.history.challenge import Challenge, Rules
from headrace.state.labels.join_entry import RAISED, Entry, boxed, unboxed
from headrace.state.promotion import loss
from headrace.state.promotion.loss import MISSING
from headrace.state.shard import Shard

_CHANCES = "p/"
_NEEDS_CHANCES = frozenset({"brier", "log"})
AHEAD_MS_MAX = 24 * 3_600_000
"""An event time that is further ahead of Kafka's timestamp is not believed."""


class Given(NamedTuple):
    """What a model answered, `RAISED` for nothing, and its probabilities."""

    answer: Any
    proba: Mapping[Any, Any] | None


def time_of(at_ms: int, logged_ms: int) -> int:
    """Return the event time of a pair, or the log's where the event's is not believed."""
    return at_ms if 0 <= at_ms <= logged_ms + AHEAD_MS_MAX else logged_ms


def note(shard: Shard, served: Given, others: Mapping[str, Given], truth: Any, *, at_ms: int) -> None:
    """Add the pairs of a record whose label is there."""
    history = shard.history
    history.sequence += 1
    for challenge in list(history.challenges.values()):
        found = others.get(challenge.name, Given(RAISED, None))
        ours, theirs = loss_of(challenge.rules, served, truth), loss_of(challenge.rules, found, truth)
        add(shard, challenge, [ours], [theirs], [at_ms], sequences=[history.sequence])


def note_late(shard: Shard, entry: Entry, truth: Any) -> None:
    """Add the pairs of features whose label has come after them; those of challengers that had entered before."""
    assert shard.labels is not None
    history, answers = shard.history, entry.answer
    history.sequence += 1
    for challenge in list(history.challenges.values()):
        names = shard.answering.name, challenge.name
        if type(answers) is dict and entry.order >= challenge.since[0] and all(name in answers for name in names):
            ours, theirs = (loss_of(challenge.rules, _given(answers, name), truth) for name in names)
            add(shard, challenge, [ours], [theirs], [shard.labels.clock.now_ms], sequences=[history.sequence])


def add(
    shard: Shard,
    challenge: Challenge,
    ours: Sequence[float],
    theirs: Sequence[float],
    times_ms: Sequence[int],
    *,
    sequences: Sequence[int],
) -> None:
    """Add pairs of one challenge, and note its verdict; `sequences` are the numbers of their records."""
    if challenge.name in shard.failed:
        # It will never answer again.
        return
    verdict = challenge.add(ours, theirs, times_ms)
    if verdict is not None:
        shard.history.verdicts.append((int(sequences[verdict.at]), challenge.name, verdict))


def chances_for_entry(shard: Shard, given: Mapping[str, Given]) -> dict[str, Any]:
    """Return the probabilities that the losses of the challenges need, as an entry of waiting features has them."""
    if not any(challenge.rules.loss in _NEEDS_CHANCES for challenge in shard.history.challenges.values()):
        return {}
    is_binary = shard.model.task == "binary"
    found = {}
    for name, one in given.items():
        if one.proba:
            kept = (
                float(one.proba.get(True, 0.0)) if is_binary else boxed([[c, float(p)] for c, p in one.proba.items()])
            )
            found[_CHANCES + name] = kept
    return found


def _given(answers: Mapping[str, Any], name: str) -> Given:
    """Return what a model had answered, from the entry of its features."""
    kept = unboxed(answers.get(_CHANCES + name))
    if kept is None:
        proba = None
    elif isinstance(kept, list):
        proba = dict(kept)
    else:
        proba = {False: 1.0 - kept, True: kept}
    return Given(unboxed(answers.get(name)), proba)


def loss_of(rules: Rules, given: Given, truth: Any) -> float:
    """Return the loss of an answer, `MISSING` where a model gave none."""
    return MISSING if given.answer == RAISED else loss.loss(rules.loss, rules.task, given.answer, given.proba, truth)
