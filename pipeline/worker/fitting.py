"""Makes a batch fit its topics after one of them did not take it: an operator may lower a limit while the stream runs.

The limits are read anew. Where they explain nothing (this user may not read them, or a broker that compresses anew
made a record larger), the largest record of the batch is taken for too large. Each time something becomes smaller, so
it comes to an end. Of the batch only what goes out changes, and its mark: it was learned, and that stands.
"""

from collections.abc import Callable, Mapping, MutableSequence

import msgspec
import structlog

from headrace.pipeline.engine.engine import Engine, Result
from headrace.pipeline.recovery import offset_metadata
from headrace.producers.output import Output
from headrace.producers.record_size import SizeLimits, record_bytes
from headrace.producers.sink import Sink, SinkRefused, SinkTooLarge
from headrace.state.shard import Shard

log = structlog.get_logger("headrace")

# What is taken off at first, and at most: this part of the largest record.
_SHARE, _SHARE_MIN = 64, 4


class Fitting:
    """Keep the limits of the engine and the sink. `ask` reads those of the topics; it raises SourceAway, SourceError.

    `topics` names the output topics, `shards` are the runner's, by partition.
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
        self._told = engine.limits

    def fit(self, results: Mapping[int, Result], outputs: MutableSequence[Output]) -> bool:
        """Make results fit the limits as they are by now, and what is sent of them; tell whether anything changed."""
        changed = False
        for partition, result in results.items():
            before = len(result.predictions)
            if not self._engine.fit(self._shards[partition], result):
                continue
            changed = True
            for place, output in enumerate(outputs):
                if output.partition == partition:
                    outputs[place] = msgspec.structs.replace(
                        output,
                        predictions=result.predictions,
                        dead_letters=result.letters,
                        mark=offset_metadata.withdraw(output.mark, before - len(result.predictions)),
                    )
        return changed

    def shrink(
        self,
        results: Mapping[int, Result],
        outputs: MutableSequence[Output],
        error: SinkTooLarge,
        *,
        refusals: int,
    ) -> None:
        """Make results fit after a topic has refused them, so often by now.

        Raises SinkRefused where nothing can become smaller.
        """
        told, before = self._ask(), self._engine.limits
        self._set(told if told != self._told else before)
        self._told = told
        if self.fit(results, outputs) or self._engine.limits.batch < before.batch:
            return
        self._set(self._narrowed(results, error.topic, refusals))
        if not self.fit(results, outputs):
            raise SinkRefused(
                str(error), hint=f"raise max.message.bytes of {self._topics['dead_letters']}, then start again"
            )

    def _set(self, limits: SizeLimits) -> None:
        if limits != self._engine.limits:
            log.warning("the limits of the output topics are others now", **msgspec.structs.asdict(limits))
        self._engine.limits = limits
        self._sink.batch_bytes_max = limits.batch

    def _narrowed(self, results: Mapping[int, Result], topic: str, refusals: int) -> SizeLimits:
        """Return limits below the largest of what goes to the topic that refused it, or to both topics.

        To compress anew adds little to a record, so little is taken off at first, and more with each refusal.
        """
        share = max(_SHARE_MIN, _SHARE >> (refusals - 1))
        limits = self._engine.limits
        narrowed = {}
        for kind, largest in (
            ("predictions", max((_largest_prediction(result) for result in results.values()), default=0)),
            ("dead_letters", max((_largest_letter(result) for result in results.values()), default=0)),
        ):
            if largest and topic in {"", self._topics[kind]}:
                narrowed[kind] = min(getattr(limits, kind), largest - max(1, largest // share))
        return msgspec.structs.replace(limits, **narrowed)


def _largest_prediction(result: Result) -> int:
    return max(result.predictions.larger_than(0).values(), default=0)


def _largest_letter(result: Result) -> int:
    return max((record_bytes(letter.key, letter.value, letter.headers) for letter in result.letters), default=0)
