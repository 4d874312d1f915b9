"""Challengers of a shard: how they enter and leave, and how one of them becomes the champion.

Each step has an entry in the journal, and a relearning does the same from the entry alone: so the entry has all that
decides what the step does, down to the rules of the promotion as they were.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from headrace.state.history.challenge import RECENT, Challenge, Rules
from headrace.state.history.journal import JournalEntry, JournalError
from headrace.state.models.model import Model
from headrace.state.models.task import ModelError
from headrace.state.promotion import loss
from headrace.state.row_packing import TableVersion
from headrace.state.shard import SHARED_ALONE, Shard
from headrace.state.shard_model import MODEL

PromotionMode = Literal["off", "ask", "auto"]
_NAME_MAX = 50
_BOUND_MEANS = 16.0
_SPEC_DIGITS = 16


class ChallengeRefused(Exception):
    """Raised when a shard can't do what a command asks for."""

    status = 409
    hint = "`headrace model challengers` shows the challengers of each partition"


class Contender(NamedTuple):
    """A new model of a factory, and whether it gives probabilities."""

    model: Model
    has_proba: bool


BuildContender = Callable[[str, str, int], Contender]
"""Builds a model by its name, its factory (an empty text is the configured one) and the partition."""


class PromotionRules(msgspec.Struct, frozen=True):
    """The section `[promotion]`, and the number of `partitions` that share `alpha`."""

    mode: PromotionMode
    loss: str
    alpha: float
    pairs_min: int
    span_ms: int
    probation_ms: int
    partitions: int


class Contest:
    """Let models challenge one another, with `factory` as the one that `[model]` configures."""

    def __init__(self, build: BuildContender, rules: PromotionRules, *, factory: str) -> None:
        self._build = build
        self._rules = rules
        self._factory = factory

    def enter(
        self, shard: Shard, name: str, factory: str, *, origin: str, configured: bool = False, **told: Any
    ) -> None:
        """Let a new challenger enter; `told` are more fields of the entry.

        Raises ChallengeRefused, ModelError and LossRefused.
        """
        history = shard.history
        self._check(shard, name, factory, origin)
        contender = self._build(name, factory, shard.partition)
        champion = self._build(shard.answering.name, self._factory_of(shard), shard.partition)
        model, tasks = contender.model, {contender.model.task, shard.model.task}
        # A model of several classes may be compared with one of two.
        task = "multiclass" if tasks == {"binary", "multiclass"} else model.task
        if len(tasks) > 1 and task != "multiclass":
            raise ChallengeRefused(
                f"{factory} builds a model for {model.task}, and the champion's task is {shard.model.task}"
            )
        both = contender.has_proba and champion.has_proba
        chosen = loss.choose(self._rules.loss, task, has_proba=both)
        rules = Rules(
            loss=chosen,
            task=task,
            bound=loss.bound(chosen, task) or _bound_of(shard, chosen),
            share=self._rules.alpha / self._rules.partitions,
            pairs_min=self._rules.pairs_min,
            span_ms=self._rules.span_ms,
            acts=self._rules.mode == "auto",
            probation_ms=self._rules.probation_ms,
        )
        args = {
            "factory": factory,
            "from": origin,
            "spec": _digest(model),
            "rules": msgspec.json.encode(rules).decode(),
        }
        if configured:
            args["configured"] = "true"
        self.repeat(shard, history.add("challenge", shard.place, name=name, args=args, **told), model)

    def drop(self, shard: Shard, name: str, **told: Any) -> None:
        """Let a challenger leave. Raises ChallengeRefused."""
        if name not in shard.history.challenges:
            raise ChallengeRefused(f"there is no challenger {name!r}")
        self.repeat(shard, shard.history.add("drop", shard.place, name=name, **told))

    def promote(self, shard: Shard, name: str, *, reason: str, **told: Any) -> None:
        """Make a challenger the champion by hand, whatever its evidence. Raises ChallengeRefused."""
        challenge = shard.history.challenges.get(name)
        if challenge is None or name not in shard.models:
            failed = shard.failed.get(name)
            raise ChallengeRefused(
                f"there is no challenger {name!r}"
                if failed is None
                else f"the challenger {name!r} failed: {failed.reason}"
            )
        waits_for = challenge.waits_for()
        forced = "" if not waits_for or waits_for.startswith("`") else f"forced, without {waits_for}"
        words = ": ".join(filter(None, (forced, reason)))
        entry = shard.history.add(
            "promote", shard.place, name=name, steps=1, evidence=challenge.evidence, reason=words, **told
        )
        self.repeat(shard, entry)

    def repeat(self, shard: Shard, entry: JournalEntry, model: Model | None = None) -> None:
        """Do to the models of a shard what an entry says. Raises JournalError where it is not possible any more."""
        if entry.what == "challenge":
            self._start(shard, entry, model or self._rebuild(shard, entry))
        elif entry.what == "drop":
            self._end(shard, entry.name)
            shard.remove(entry.name)
            shard.history.factories.pop(entry.name, None)
        elif entry.what in {"promote", "return"}:
            self._switch(shard, entry)

    def _check(self, shard: Shard, name: str, factory: str, origin: str) -> None:
        history = shard.history
        if self._rules.mode == "off":
            raise ChallengeRefused('promotion.mode is "off"')
        if shard.model.can.shared:
            raise ChallengeRefused(SHARED_ALONE)
        if name in history.challenges and history.names.get(name) == factory:
            raise ChallengeRefused(f"the same challenge of {name!r} goes on already")
        if name in history.challenges or name == shard.answering.name:
            raise ChallengeRefused(f"there is another model {name!r} already")
        if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or len(name) > _NAME_MAX:
            raise ChallengeRefused(
                f"{name!r} is no name: it has up to {_NAME_MAX} letters, digits, dashes and underscores"
            )
        if shard.model.can.keys and (name in history.names or name == MODEL):
            # The store may still have rows of the earlier one.
            raise ChallengeRefused(f"the name {name!r} was used before, and models of keys need a new one")
        if origin != "now":
            raise ChallengeRefused(f'from = {origin!r} needs a rebuild, which this release does not have: use "now"')

    def _factory_of(self, shard: Shard) -> str:
        return shard.history.factories.get(shard.answering.name, "")

    def _rebuild(self, shard: Shard, entry: JournalEntry) -> Model:
        try:
            model = self._build(entry.name, entry.args["factory"], shard.partition).model
        except ModelError as error:
            raise JournalError(f"the challenger {entry.name!r} of entry {entry.seq} can't be built: {error}") from error
        if _digest(model) != entry.args["spec"]:
            raise JournalError(
                f"{entry.args['factory']} builds another model than the challenger {entry.name!r} of entry {entry.seq}"
            )
        return model

    def _start(self, shard: Shard, entry: JournalEntry, model: Model) -> None:
        history, factory = shard.history, entry.args["factory"]
        champion = self._factory_of(shard) or self._factory
        if factory == champion and not model.can.keys and model.codec == shard.model.codec:
            model.load(shard.model.dump())
        if model.can.keys:
            model.resume(TableVersion(shard.epoch, shard.version, 0))
        shard.add(entry.name, model)
        history.factories[entry.name] = history.names[entry.name] = factory
        rules = msgspec.json.decode(entry.args["rules"], type=Rules)
        configured = entry.args.get("configured") == "true"
        history.challenged += 1
        challenge = Challenge(entry.name, history.challenged, entry.place, rules, configured=configured)
        history.challenges[entry.name] = challenge
        history.seen = max(history.seen, entry.place[0])

    def _end(self, shard: Shard, name: str) -> Challenge:
        history = shard.history
        challenge = history.challenges.pop(name)
        if history.scheduled is not None and history.scheduled.name == name:
            history.scheduled = None
        return challenge

    def _switch(self, shard: Shard, entry: JournalEntry) -> None:
        """Let a challenger answer from here on; the other challenges begin anew against it."""
        history, former = shard.history, shard.answering.name
        winner = self._end(shard, entry.name)
        shard.answer_with(entry.name)
        others = list(history.challenges.values())
        history.challenges = {}
        history.scheduled = None
        for one in others:
            again = Challenge(one.name, 0, entry.place, one.rules, configured=one.configured, probation=one.probation)
            self._begin(shard, again)
        if entry.what == "promote" and winner.rules.probation_ms:
            self._begin(shard, Challenge(former, 0, entry.place, winner.rules, probation=True))
        else:
            shard.remove(former)
            history.factories.pop(former, None)

    def _begin(self, shard: Shard, challenge: Challenge) -> None:
        history = shard.history
        history.challenged += 1
        challenge.number = history.challenged
        history.challenges[challenge.name] = challenge


def _bound_of(shard: Shard, name: str) -> float:
    """Return the bound that follows from the champion's newest losses; 0 where there are too few."""
    errors = shard.answering.recent
    if len(errors) < RECENT:
        return 0.0
    losses = [error * error for error in errors] if name == "squared" else list(errors)
    return _BOUND_MEANS * math.fsum(losses) / len(losses)


def _digest(model: Model) -> str:
    return hashlib.sha256(model.spec.encode()).hexdigest()[:_SPEC_DIGITS]
