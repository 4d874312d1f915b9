"""A challenge: a challenger beside the champion, the pairs of losses so far, and what they decide.

It is a part of the shard and is saved with it. A pair is added for each label that comes for the first time, with the
losses of what both models answered when the features came. A verdict depends on nothing else, and on no batch.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np

from headrace.state.history.journal import Evidence, LogPlace
from headrace.state.promotion.e_process import fold, needed, start
from headrace.state.promotion.loss import LossName
from headrace.state.quality import running_sum

RECENT = 1_000
"""The number of the newest pairs of which the sum must not be against the challenger."""
# A bound that is not known beforehand is this many times the champion's mean loss.
_BOUND_MEANS = 16.0
_Whole = Annotated[int, msgspec.Meta(ge=0, le=2**62)]

Decision = Literal["promote", "return", "drop"]


class Rules(msgspec.Struct, frozen=True):
    """How a challenge is decided; it keeps the rules with which it began.

    `task` is that of both models: "multiclass" if either is. `share` is the partition's part of alpha. A promotion also
    needs `pairs_min` pairs and `span_ms` of event time. `bound` is the largest loss, 0 if it is found from the first
    pairs. With `acts` it is promoted, or dropped, by itself. The champion that it replaces is kept for `probation_ms`.
    """

    loss: LossName
    task: str
    bound: float
    share: float
    pairs_min: _Whole
    span_ms: _Whole
    acts: bool
    probation_ms: _Whole


class Verdict(NamedTuple):
    """What the pair with the index `at` has decided, and the evidence."""

    at: int
    decision: Decision
    evidence: Evidence
    reason: str = ""


class EProcess(msgspec.Struct):
    """The products of a test: a row of them for each start, with the time of the start's first pair."""

    rows: list[list[float]] = []
    begun_ms: list[int] = []
    value: float = 1.0


class Challenge(msgspec.Struct):
    """The challenge `number` of a partition, which began at the place `since`.

    One that is `configured` ends when the configuration no longer has it. `pairs` counts all pairs, and `tested` those
    behind the ones that the bound was found from. On `probation` the challenger is a former champion, which may return
    until the event time `until_ms`. `recent` has the newest differences of losses.
    """

    name: str
    number: _Whole
    since: LogPlace
    rules: Rules
    configured: bool = False
    probation: bool = False
    until_ms: int = 0
    bound: float = 0.0
    pairs: _Whole = 0
    tested: _Whole = 0
    champion_sum: float = 0.0
    challenger_sum: float = 0.0
    better: EProcess = msgspec.field(default_factory=EProcess)
    worse: EProcess = msgspec.field(default_factory=EProcess)
    recent: list[float] = []

    @property
    def evidence(self) -> Evidence:
        """The evidence as it stands."""
        return Evidence(self.better.value, self.tested, self.needs)

    @property
    def needs(self) -> float:
        """The evidence that decides."""
        return needed(self.rules.share, number=self.number)

    def add(self, champion: Sequence[float], challenger: Sequence[float], times_ms: Sequence[int]) -> Verdict | None:
        """Add pairs of losses, NaN for a missing one, with their event times; return the first verdict, if it acts.

        Many pairs come as arrays (float64 and int64).
        """
        if self.probation and not self.until_ms and len(times_ms):
            self.until_ms = int(times_ms[0]) + self.rules.probation_ms
        skipped = self._find_bound(champion, challenger)
        if skipped == len(champion):
            return None
        worst, times = self.bound, times_ms[skipped:]
        ours, theirs = _filled(champion[skipped:], worst), _filled(challenger[skipped:], worst)
        self._sum(ours, theirs)
        ratios = _ratios(ours, theirs, worst)
        evidence, best = self._fold(self.better, ratios, times)
        against, _ = self._fold(self.worse, _negative(ratios), times)
        before, self.tested = self.tested, self.tested + len(ratios)
        differences = _differences(ours, theirs)
        found = None
        if self.rules.acts:
            found = self._judge(evidence, against, best, times, before=before, differences=differences)
        self.recent = [*self.recent, *map(float, differences[-RECENT:])][-RECENT:]
        return None if found is None else found._replace(at=found.at + skipped)

    def _find_bound(self, champion: Sequence[float], challenger: Sequence[float]) -> int:
        """Find a bound that is not known beforehand from the first pairs; return how many of these are such pairs."""
        self.bound = self.bound or self.rules.bound
        skipped = 0
        while not self.bound and skipped < len(champion):
            ours, theirs = champion[skipped], challenger[skipped]
            skipped += 1
            if math.isnan(ours) or math.isnan(theirs):
                continue
            self._sum([ours], [theirs])
            if self.pairs >= RECENT:
                self.bound = _BOUND_MEANS * self.champion_sum / self.pairs or 1.0
        return skipped

    def _sum(self, ours: Sequence[float], theirs: Sequence[float]) -> None:
        self.champion_sum = _summed(self.champion_sum, ours)
        self.challenger_sum = _summed(self.challenger_sum, theirs)
        self.pairs += len(ours)

    def _fold(self, process: EProcess, ratios: Sequence[float], times: Sequence[int]) -> tuple[list[float], list[int]]:
        begun = len(process.rows)
        evidence, best = fold(process.rows, self.tested, ratios)
        for number in range(begun, len(process.rows)):
            first = max(0, start(number) - self.tested)
            process.begun_ms.append(int(times[first]))
        process.value = float(evidence[-1])
        return evidence, best

    def _judge(
        self,
        evidence: Sequence[float],
        against: Sequence[float],
        best: Sequence[int],
        times: Sequence[int],
        *,
        before: int,
        differences: Sequence[float],
    ) -> Verdict | None:
        """Return the verdict of the first pair that has one."""
        needs = self.needs
        for at in self._candidates(evidence, against, times, needs):
            value, tested = float(evidence[at]), before + at + 1
            if self.probation and times[at] >= self.until_ms:
                return Verdict(at, "drop", Evidence(value, tested, needs), "its probation has ended")
            if value >= needs and self._is_guarded(tested, best[at], times[at], differences[: at + 1]):
                decision: Decision = "return" if self.probation else "promote"
                return Verdict(at, decision, Evidence(value, tested, needs))
            if against[at] >= needs and not self.probation:
                worse = Evidence(float(against[at]), tested, needs)
                return Verdict(at, "drop", worse, "it is worse than the champion")
        return None

    def _candidates(self, evidence: Any, against: Any, times: Sequence[int], needs: float) -> Sequence[int]:
        """Return the pairs at which there may be a verdict: few of them, or none."""
        if isinstance(evidence, list):
            return range(len(evidence))
        found = (evidence >= needs) | (against >= needs)
        if self.probation:
            found |= np.asarray(times) >= self.until_ms
        return [int(at) for at in np.flatnonzero(found)]

    def _is_guarded(self, tested: int, best: int, time_ms: int, differences: Sequence[float]) -> bool:
        """Tell whether the guards hold at the last of these pairs.

        A return needs no span: the former champion was trusted before.
        """
        rules = self.rules
        if tested < rules.pairs_min:
            return False
        if not self.probation and time_ms < self.better.begun_ms[best] + rules.span_ms:
            return False
        newest = differences[-RECENT:]
        older = self.recent[max(0, len(self.recent) + len(newest) - RECENT) :]
        return math.fsum([*older, *newest]) >= 0.0

    def waits_for(self) -> str:
        """Say what a promotion waits for; an empty text for nothing."""
        rules = self.rules
        if self.tested < rules.pairs_min:
            return f"{rules.pairs_min - self.tested} more pairs"
        if self.better.value < self.needs:
            return "evidence"
        if math.fsum(self.recent) < 0.0:
            return "better losses in the last 1,000 pairs"
        return "" if rules.acts else "`headrace model promote`"

    def told(self) -> dict[str, object]:
        """Return the figures of the challenge, for the note of a snapshot."""
        pairs = max(1, self.pairs)
        return {
            "since": self.since[0],
            "pairs": self.pairs,
            "loss": {"champion": self.champion_sum / pairs, "challenger": self.challenger_sum / pairs},
            "evidence": self.better.value,
            "needs": self.needs,
            "waits_for": self.waits_for(),
        }


def _filled(losses: Any, worst: float) -> Any:
    if isinstance(losses, np.ndarray):
        return np.where(np.isnan(losses), worst, losses)
    return [worst if math.isnan(one) else one for one in losses]


def _ratios(ours: Any, theirs: Any, worst: float) -> Any:
    if isinstance(ours, np.ndarray):
        return (np.minimum(ours, worst) - np.minimum(theirs, worst)) / worst
    return [(min(one, worst) - min(other, worst)) / worst for one, other in zip(ours, theirs, strict=True)]


def _negative(ratios: Any) -> Any:
    return -ratios if isinstance(ratios, np.ndarray) else [-ratio for ratio in ratios]


def _differences(ours: Any, theirs: Any) -> Any:
    if isinstance(ours, np.ndarray):
        return ours - theirs
    return [one - other for one, other in zip(ours, theirs, strict=True)]


def _summed(total: float, losses: Any) -> float:
    if isinstance(losses, np.ndarray):
        return float(running_sum(total, losses))
    for one in losses:
        total += one
    return total
