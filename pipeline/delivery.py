"""A batch on its way from learned to confirmed.

The model has learned a batch before it is sent, and learning can't be taken back. So the batch keeps its
outputs, its offsets and the membership that held when it was consumed, and tries until Kafka confirms them:
the same outputs each time, never a second learning. Only when the partitions are no longer this worker's is
the batch dropped, and the models that learned it with it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
import structlog

from consumers.source import Committed, Source
from pipeline import mark
from pipeline.engine import Engine, Result
from producers.sink import BatchStale, OutcomeUnknown, Output, Sink
from producers.webhook import Webhook
from state.shard import Shard

log = structlog.get_logger("headrace")


class Pending(msgspec.Struct):
    """A batch that is learned and not yet confirmed. `starts` are the offsets that were committed before it."""

    results: dict[int, Result]
    starts: dict[int, int]
    ends: dict[int, int]
    membership: Any
    newest_ms: int
    posted: bool = False
    sent: bool = False
    unknown: bool = False


class Delivery:
    """Bring batches to the sinks. `shards` are the runner's, by partition."""

    def __init__(
        self,
        *,
        engine: Engine,
        source: Source,
        sink: Sink,
        webhook: Webhook | None,
        shards: Mapping[int, Shard],
    ) -> None:
        self._engine = engine
        self._source = source
        self._sink = sink
        self._webhook = webhook
        self._shards = shards

    def attempt(self, pending: Pending, *, on_unknown: Callable[[], None]) -> None:
        """Try to bring a batch to its end; returns when it is confirmed.

        Raises SinkAway, SourceAway or WebhookAway when it must be tried again, and BatchStale when its
        partitions have moved on.
        """
        if pending.unknown and self._resolve(pending) == "sent":
            return
        self._post(pending)
        outputs = self._outputs(pending)
        if not pending.sent:
            try:
                self._sink.send(outputs, pending.membership)
            except OutcomeUnknown:
                pending.unknown = True
                on_unknown()
                raise
            pending.sent = True
        if not self._sink.commits:
            self._source.commit({o.partition: Committed(o.offset, o.mark) for o in outputs})

    def _resolve(self, pending: Pending) -> Literal["sent", "unsent"]:
        """Learn from the committed offsets how a transaction ended whose end was not heard of."""
        self._sink.open()
        committed = self._source.committed(pending.ends)
        if all(committed[p].offset == end for p, end in pending.ends.items()):
            log.info("transaction had been committed", offsets=pending.ends)
            return "sent"
        if all(committed[p].offset in {-1, start} for p, start in pending.starts.items()):
            log.info("transaction had not been committed, sending it again", offsets=pending.ends)
            pending.unknown = False
            return "unsent"
        raise BatchStale("the committed offsets are another owner's")

    def _post(self, pending: Pending) -> None:
        if self._webhook is None or pending.posted:
            return
        for partition, result in pending.results.items():
            if result.sources:
                refused = self._webhook.send([message.value or b"" for message in result.predictions])
                self._engine.withdraw(self._shards[partition], result, refused)
                # Accepted lines are not posted again when a later partition's must wait.
                result.sources = []
        pending.posted = True

    def _outputs(self, pending: Pending) -> list[Output]:
        return [
            Output(
                partition,
                result.predictions,
                [letter for _, letter in result.dead_letters],
                pending.ends[partition],
                mark.of(self._shards[partition]),
            )
            for partition, result in pending.results.items()
        ]
