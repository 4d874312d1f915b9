"""The worker's pulse: what its metrics and its note for `status` say about once a second."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.gate import Gate
from headrace.producers.sink import Sink
from headrace.state.labels.label_join import LabelCounts, Labels
from headrace.state.shard import Shard

_OUTCOMES = [name for name in LabelCounts.__struct_fields__ if name != "records"]

WorkerState = Literal["connecting", "running", "paused", "relearning"]


class StatusReporter:
    """Tell how a worker is. `shards` are the runner's, by partition; `relearned` counts what it relearned so far.

    `warnings` is what was found wrong with its stream.
    """

    def __init__(
        self,
        *,
        gate: Gate,
        shards: Mapping[int, Shard],
        sink: Sink,
        relearned: Callable[[], int],
        warnings: Sequence[str],
        telemetry: Telemetry,
    ) -> None:
        self._gate = gate
        self._shards = shards
        self._relearned = relearned
        self._warnings = warnings
        self._telemetry = telemetry
        self._relearned_before = 0
        self._shown: set[int] = set()
        self._relearn_rate = 0.0
        # Asked for when somebody scrapes: the loop that would write it down may be the one that waits.
        telemetry.aborts.set_function(lambda: sink.aborts)
        telemetry.transaction_seconds.set_function(lambda: _age_s(sink.begun_at))

    def state(self, *, arrived: bool) -> WorkerState:
        """Name what the worker is doing; `arrived` says that partitions wait to be taken over."""
        if not self._gate.open:
            return "paused"
        if any(shard.is_relearning for shard in self._shards.values()):
            return "relearning"
        return "connecting" if arrived and not self._shards else "running"

    def publish(self, state: WorkerState, *, passed_s: float) -> None:
        """Bring the metrics up to date; `passed_s` is the time since they were last."""
        self._telemetry.set_state(state)
        if state == "paused":
            self._telemetry.paused_seconds.labels("flood" if self._gate.flood else "away").inc(passed_s)
        relearned = self._relearned()
        self._relearn_rate = (relearned - self._relearned_before) / passed_s if passed_s else 0.0
        self._relearned_before = relearned
        self._telemetry.relearn_rate.set(self._relearn_rate)
        for gone in self._shown.difference(self._shards):
            self._telemetry.forget(gone)
        self._shown = set(self._shards)
        for shard in self._shards.values():
            partition = str(shard.partition)
            self._telemetry.relearn_remaining.labels(partition).set(max(0, shard.committed - shard.offset))
            self._telemetry.offset.labels(partition).set(shard.committed)
            self._telemetry.snapshot_offset.labels(partition).set(shard.snapshot_offset)
            self._telemetry.version.labels(partition).set(shard.version)
            self._telemetry.epoch.labels(partition).set(shard.epoch)
            quality = shard.quality_now()
            for measure, value in quality.summary().items():
                self._telemetry.quality.labels(partition, measure).set(value)
            self._telemetry.version_quality.remove_by_labels({"partition": partition})
            for version, score in quality.versions.items():
                self._telemetry.version_quality.labels(partition, str(version)).set(score.total / score.scored)
            if shard.labels is not None:
                self._publish_labels(partition, shard, shard.labels)

    def _publish_labels(self, partition: str, shard: Shard, labels: Labels) -> None:
        telemetry, tally = self._telemetry, labels.tally
        telemetry.labels_offset.labels(partition).set(shard.labels_committed)
        telemetry.labels_waiting.labels(partition, "asked").set(labels.asked)
        telemetry.labels_waiting.labels(partition, "early").set(labels.early)
        telemetry.labels_waiting_bytes.labels(partition).set(labels.bytes)
        for outcome in _OUTCOMES:
            telemetry.labels_outcome.labels(partition, outcome).set(getattr(tally, outcome))
        done = tally.joined + tally.expired + tally.evicted
        telemetry.labelled_share.labels(partition).set(tally.joined / done if done else 0.0)

    def note(self, state: WorkerState) -> dict[str, Any]:
        """Return what `status` wants to know of this worker."""
        return {
            "state": state,
            "reason": self._gate.reason,
            "warnings": list(self._warnings),
            "partitions": sorted(self._shards),
            "relearning": {
                str(shard.partition): shard.committed - shard.offset
                for shard in self._shards.values()
                if shard.is_relearning
            },
            "relearn_rate": round(self._relearn_rate),
            "epochs": {str(shard.partition): shard.epoch for shard in self._shards.values()},
            "quality": {str(shard.partition): shard.quality_now().summary() for shard in self._shards.values()},
        }


def _age_s(begun_at: float | None) -> float:
    return 0.0 if begun_at is None else time.monotonic() - begun_at
