"""The worker's pulse: what its metrics and its note for `status` say about once a second."""

from collections.abc import Mapping
from typing import Any, Literal

from consumers.gate import Gate
from pipeline.telemetry import Telemetry
from state.shard import Shard

State = Literal["connecting", "running", "paused", "relearning"]


class Pulse:
    """Tell how a worker is. `shards` are the runner's, by partition."""

    def __init__(self, *, gate: Gate, shards: Mapping[int, Shard], telemetry: Telemetry) -> None:
        self._gate = gate
        self._shards = shards
        self._telemetry = telemetry

    def state(self, *, arrived: bool) -> State:
        """Name what the worker is doing; `arrived` says that partitions wait to be taken over."""
        if not self._gate.open:
            return "paused"
        if any(shard.offset < shard.committed for shard in self._shards.values()):
            return "relearning"
        return "connecting" if arrived and not self._shards else "running"

    def publish(self, state: State, *, passed_s: float) -> None:
        """Bring the metrics up to date; `passed_s` is the time since they were last."""
        self._telemetry.set_state(state)
        if state == "paused":
            self._telemetry.paused_seconds.labels("flood" if self._gate.flood else "away").inc(passed_s)
        for shard in self._shards.values():
            partition = str(shard.partition)
            self._telemetry.offset.labels(partition).set(shard.committed)
            self._telemetry.snapshot_offset.labels(partition).set(shard.snapshot_offset)
            self._telemetry.version.labels(partition).set(shard.version)
            self._telemetry.epoch.labels(partition).set(shard.epoch)
            for measure, value in shard.quality_now().summary().items():
                self._telemetry.quality.labels(partition, measure).set(value)

    def note(self, state: State) -> dict[str, Any]:
        """Return what `status` wants to know of this worker."""
        return {
            "state": state,
            "reason": self._gate.reason,
            "partitions": sorted(self._shards),
            "relearning": {
                str(shard.partition): shard.committed - shard.offset
                for shard in self._shards.values()
                if shard.offset < shard.committed
            },
            "quality": {str(shard.partition): shard.quality_now().summary() for shard in self._shards.values()},
        }
