"""Delivers a learned batch until Kafka has confirmed it.

The model learns a batch before it is sent, and learning can't be undone. So the batch keeps its outputs, its offsets
and the membership of the moment when it was read. It sends the same outputs again until Kafka confirms them, and never
learns a record twice. If the partitions have another owner, the batch is dropped with the models that learned it.

A separate call sends to Kafka. It may run beside the learning of the next batch, because it uses only values that were
fixed before.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
import structlog

from headrace.consumers.interleave import LogOffsets
from headrace.consumers.source import Committed, Source
from headrace.consumers.topics import Topic
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.outputs import PartitionOutputs
from headrace.pipeline.recovery import offset_metadata
from headrace.pipeline.recovery.topic_identity import TopicIdentity
from headrace.pipeline.worker.output_limits import OutputLimits
from headrace.producers.sink import (
    BatchStale,
    OutcomeUnknown,
    OutputMissing,
    Sink,
    SinkAway,
    SinkRefused,
    SinkTooLarge,
)
from headrace.producers.webhook import Webhook, WebhookAway
from headrace.state.shard import Shard

log = structlog.get_logger("headrace")

# The loop must poll in between, or the group gives its partitions to another worker.
_POSTING_S = 5.0
_SLICE_LINES = 100


class PendingBatch(msgspec.Struct):
    """A batch that is learned and not yet confirmed: its `outputs` by partition, with the offsets behind them.

    `membership` is the one that held when its records were read, the last of them at `read_at` on the monotonic clock.
    The first try to send it fixes the marks of the outputs, and `starts`, which was committed before. `settled` counts
    the lines that the HTTP sink has taken or refused one by one, and `refused` holds the refused ones by position.
    `too_large` is the error of a topic that refused the batch for its size, and `refusals` counts these errors.
    `lacks_topic` is true if an output topic did not exist at the last try.
    `newest_ms` is the time of the newest record, and `done_s` the wall clock when the batch was sent.
    """

    membership: Any
    outputs: dict[int, PartitionOutputs] = {}
    starts: dict[int, Committed] = {}
    newest_ms: int = 0
    done_s: float = 0.0
    read_at: float = 0.0
    posted: bool = False
    sent: bool = False
    unknown: bool = False
    lacks_topic: bool = False
    too_large: SinkTooLarge | None = None
    refusals: int = 0
    settled: dict[int, int] = msgspec.field(default_factory=dict)
    refused: dict[int, dict[int, str]] = msgspec.field(default_factory=dict)

    @property
    def ends(self) -> dict[int, LogOffsets]:
        """The offsets behind the batch, of the features and of the labels, by partition."""
        return {partition: (outputs.offset, outputs.labels_offset) for partition, outputs in self.outputs.items()}


class Delivery:
    """Send batches to the sinks. `outputs` are the output topics; `on_unknown` counts transactions of unknown end."""

    def __init__(
        self,
        *,
        engine: Engine,
        source: Source,
        sink: Sink,
        webhook: Webhook | None,
        shards: Mapping[int, Shard],
        topic: Topic,
        outputs: Collection[str],
        identity: TopicIdentity,
        on_unknown: Callable[[], None],
        output_limits: OutputLimits,
    ) -> None:
        self._topic = topic
        self._outputs = outputs
        self._identity = identity
        self._on_unknown = on_unknown
        self._output_limits = output_limits
        self._engine = engine
        self._source = source
        self._sink = sink
        self._webhook = webhook
        self._shards = shards

    def start(self, pending: PendingBatch) -> None:
        """Prepare a batch; `finish` sends it.

        The shards must be at the end of this batch, and the batch before it must be confirmed. Raises WebhookAway, and
        the errors of `finish`.
        """
        if pending.lacks_topic:
            # Without its topic a try takes seconds, and leaves a transaction open until its timeout.
            self._check_outputs()
            pending.lacks_topic = False
        if pending.unknown and self._resolve(pending) == "sent":
            pending.sent = True
            return
        if pending.too_large is not None:
            self._output_limits.shrink(pending.outputs, pending.too_large, refusals=pending.refusals)
            pending.too_large = None
        else:
            # A limit may have changed since the batch was learned.
            self._output_limits.apply(pending.outputs)
        self._post(pending)
        self._fix(pending)
        self._sink.open()

    def finish(self, pending: PendingBatch) -> None:
        """Send a prepared batch, and return when it is confirmed; this uses no shard.

        If `commits_offsets` is true, `commit_offsets` commits the offsets afterwards. Raises SinkAway when it must be
        tried again from `start`, and BatchStale when its partitions have moved on.
        """
        if not pending.sent:
            if self._sink.commits:
                self._identity.expect(pending.read_at)
            else:
                # Where to send twice is no harm, that is all that is waited for before the offsets are committed.
                self._identity.refresh()
            self._send(pending)
            pending.sent = True
        pending.done_s = time.time()

    def _send(self, pending: PendingBatch) -> None:
        try:
            permit = partial(self._identity.confirm, pending.read_at)
            self._sink.send(list(pending.outputs.values()), pending.membership, permit)
        except SinkTooLarge as error:
            # Nothing of it is out: it is made to fit before it is sent again.
            pending.too_large = error
            pending.refusals += 1
            raise SinkAway(str(error)) from error
        except (OutcomeUnknown, SinkAway, SinkRefused) as error:
            if isinstance(error, OutcomeUnknown):
                pending.unknown = True
                self._on_unknown()
            self._check_outputs(pending)
            raise

    def _check_outputs(self, pending: PendingBatch | None = None) -> None:
        """Raise OutputMissing if an output topic does not exist, and note that in the batch that was to be sent."""
        missing = self._identity.missing(self._outputs)
        if not missing:
            return
        if pending is not None:
            pending.lacks_topic = True
            # The transaction may still be open. A new producer ends it, and the committed offsets tell how.
            pending.unknown = self._sink.commits
            self._sink.close()
        raise OutputMissing(
            f"the output topic {missing[0]} does not exist any more: the stream goes on when it is created again, with "
            f"{self._topic.partitions} partitions"
        )

    @property
    def commits_offsets(self) -> bool:
        """Whether offsets are committed in a separate call, after the outputs."""
        return not self._sink.commits

    def commit_offsets(self, batches: Sequence[PendingBatch]) -> None:
        """Commit the offsets behind batches that were sent, in this order; touches no shard.

        Raises SourceAway, and StateError where the records were read from another topic.
        """
        self._identity.confirm(max(batch.read_at for batch in batches))
        outputs = [outputs for batch in batches for outputs in batch.outputs.values()]
        self._source.commit({o.partition: Committed(o.offset, o.mark, o.labels_offset) for o in outputs})

    def _resolve(self, pending: PendingBatch) -> Literal["sent", "unsent"]:
        """Find out from the committed offsets how a transaction with an unknown end has ended."""
        self._sink.open()
        committed = self._source.committed(pending.ends)
        # Not by the offset alone: a batch of labels moves none of the features'.
        if all(_is_at(committed[p], outputs.offset, outputs.mark) for p, outputs in pending.outputs.items()):
            log.info("transaction had been committed", offsets=pending.ends)
            return "sent"
        if all(
            committed[p].offset == -1 or _is_at(committed[p], start.offset, start.metadata)
            for p, start in pending.starts.items()
        ):
            log.info("transaction had not been committed, sending it again", offsets=pending.ends)
            pending.unknown = False
            return "unsent"
        raise BatchStale("the committed offsets are another owner's")

    def _post(self, pending: PendingBatch) -> None:
        if self._webhook is None or pending.posted:
            return
        self._identity.confirm(pending.read_at)
        until = time.monotonic() + _POSTING_S
        for partition, outputs in pending.outputs.items():
            if not outputs.posted:
                if time.monotonic() > until:
                    raise WebhookAway("the HTTP sink takes long; the rest of the batch is still to be sent", after_s=0)
                refused = self._post_one(self._webhook, pending, partition)
                self._engine.withdraw(self._shards[partition], outputs, refused)
                # Accepted lines are not posted again when a later partition's must wait.
                outputs.posted = True
        pending.posted = True

    def _post_one(self, webhook: Webhook, pending: PendingBatch, partition: int) -> dict[int, str]:
        """POST a partition's lines and return the refused ones; what was settled is not asked about again.

        Raises WebhookAway between two slices when it takes long, so that the loop comes to poll.
        """
        lines: list[Any] = pending.outputs[partition].json_lines
        if partition not in pending.refused:
            if webhook.post(lines) is None:
                return {}
            pending.refused[partition] = {}
        refused = pending.refused[partition]
        until = time.monotonic() + _POSTING_S
        while (settled := pending.settled.get(partition, 0)) < len(lines):
            if time.monotonic() > until:
                raise WebhookAway(
                    f"the HTTP sink refuses lines; {len(lines) - settled} are still asked about", after_s=0
                )
            found = webhook.send(lines[settled : settled + _SLICE_LINES])
            refused.update({settled + position: words for position, words in found.items()})
            pending.settled[partition] = settled + _SLICE_LINES
        return refused

    def _fix(self, pending: PendingBatch) -> None:
        """Fix the marks, at the first try: the shards move on while the batch is waited for.

        They are not fixed when the batch is learned, since the HTTP sink's refusals move from one count to another.
        """
        if pending.starts:
            return
        labels_id = "" if self._topic.labels is None else self._topic.labels.id
        for partition, outputs in pending.outputs.items():
            shard = self._shards[partition]
            pending.starts[partition] = Committed(shard.committed, shard.mark, shard.labels_committed)
            outputs.mark = offset_metadata.of(shard, topic=self._topic.id, labels=labels_id)


def _is_at(committed: Committed, offset: int, metadata: str) -> bool:
    return committed.offset == offset and committed.metadata == metadata
