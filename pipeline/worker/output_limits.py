"""Makes a batch fit its topics after one of them refused it: an operator may lower a limit while the stream runs.

The limits are read anew. Where they explain nothing (this user may not read them, or a broker that compresses anew made
a record larger), the largest record of the batch counts as too large. Each time something becomes smaller, so it comes
to an end. Only the outputs of the batch change, and its mark: the batch was learned, and stays learned.
"""

from collections.abc import Callable, Iterable, Mapping

import structlog

from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.pipeline.recovery import offset_metadata
from headrace.producers.output import DEAD_LETTERS, PREDICTIONS
from headrace.producers.record_size import SizeLimits
from headrace.producers.sink import Sink, SinkRefused, SinkTooLarge
from headrace.state.shard import Shard

log = structlog.get_logger("headrace")

# This part of the largest record is taken off: at first, and at most.
_SHARE, _SHARE_MIN = 64, 4


class OutputLimits:
    """Keep the limits of the engine and the sink. `ask` reads those of the topics; it raises SourceAway, SourceError.

    `topics` are the output topics by the output's name, `shards` are the runner's, by partition.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        sink: Sink,
        shards: Mapping[int, Shard],
        topics: Mapping[str, str],
        ask: Callable[[], SizeLimits],
    ) -> None:
        self._engine = engine
        self._sink = sink
        self._shards = shards
        self._topics = topics
        self._ask = ask
        self._found = engine.limits

    def apply(self, batch: Mapping[int, PartitionOutputs]) -> bool:
        """Make the outputs of each partition fit the limits as they are now; return whether anything changed."""
        changed = False
        for partition, outputs in batch.items():
            before = len(outputs.predictions)
            if self._engine.apply_limits(self._shards[partition], outputs):
                changed = True
                if outputs.mark:
                    outputs.mark = offset_metadata.withdraw(outputs.mark, before - len(outputs.predictions))
        return changed

    def shrink(self, batch: Mapping[int, PartitionOutputs], error: SinkTooLarge, *, refusals: int) -> None:
        """Make the outputs fit after a topic has refused them; `refusals` counts how often it has.

        Raises SinkRefused where nothing can become smaller.
        """
        found, before = self._ask(), self._engine.limits
        self._set(found if found != self._found else before)
        self._found = found
        if self.apply(batch) or self._engine.limits.batch < before.batch:
            return
        self._set(self._narrowed(batch.values(), error.topic, refusals))
        if not self.apply(batch):
            # A prediction that is too large becomes a dead letter; of any other output its own topic has to take it.
            own = error.topic not in {"", self._topics[PREDICTIONS]}
            topic = error.topic if own else self._topics[DEAD_LETTERS]
            raise SinkRefused(str(error), hint=f"raise max.message.bytes of {topic}, then start again")

    def _set(self, limits: SizeLimits) -> None:
        if limits != self._engine.limits:
            log.warning("the limits of the output topics are others now", **limits.by_output)
        self._engine.limits = limits
        self._sink.batch_bytes_max = limits.batch

    def _narrowed(self, batch: Iterable[PartitionOutputs], topic: str, refusals: int) -> SizeLimits:
        """Return limits below the largest record of the topic that refused the batch, or of all topics.

        To compress anew adds little to a record, so little is taken off at first, and more with each refusal.
        """
        share = max(_SHARE_MIN, _SHARE >> (refusals - 1))
        limits = self._engine.limits
        narrowed = dict(limits.by_output)
        for name, named in self._topics.items():
            largest = max((_largest(outputs, name) for outputs in batch), default=0)
            if largest and topic in {"", named}:
                narrowed[name] = min(limits.of(name), largest - max(1, largest // share))
        return SizeLimits(narrowed)


def _largest(outputs: PartitionOutputs, name: str) -> int:
    return max(outputs.records[name].larger_than(0).values(), default=0) if name in outputs.records else 0
