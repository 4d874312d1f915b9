"""The partitions of a worker: those that it has taken over, as shards, and those that wait to be taken over.

The group brings and takes partitions within a poll. A batch that is not confirmed then is dropped with the shards that
learned it, since only their owner may send it; the next owner relearns from the newest snapshot. The same happens when
the store refuses a snapshot, or goes away in the middle of a batch: the partition is taken over again.
"""

from collections.abc import Callable, Iterable, Sequence

import structlog

from headrace.consumers.source import Source
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.inflight import InFlight
from headrace.pipeline.worker.learning import Learning
from headrace.pipeline.worker.mixer import Mixer
from headrace.pipeline.worker.saver import Saver
from headrace.pipeline.worker.takeover import Takeover
from headrace.producers.sink import BatchStale, Sink
from headrace.state.shard import Shard
from headrace.state.store.store_errors import StoreAway, StoreFenced

log = structlog.get_logger("headrace")


class Assignment:
    """Keep the worker's `shards`, by partition, which its other parts share, and the partitions that are `waiting`.

    With a `mixer` all workers share one model: its copy of the model is dropped with the shards that taught it.
    """

    def __init__(
        self,
        shards: dict[int, Shard],
        *,
        source: Source,
        sink: Sink,
        takeover: Takeover,
        learning: Learning,
        inflight: InFlight,
        saver: Saver,
        mixer: Mixer | None,
        telemetry: Telemetry,
        reach: Callable[[str], None],
    ) -> None:
        self.shards = shards
        self.waiting: set[int] = set()
        self.is_paused = False
        # The owner of a partition may have changed since the last poll: a claim would fence the new owner.
        self._is_doubtful = False
        self._source = source
        self._sink = sink
        self._takeover = takeover
        self._learning = learning
        self._inflight = inflight
        self._saver = saver
        self._mixer = mixer
        self._telemetry = telemetry
        self._reach = reach

    @property
    def is_full(self) -> bool:
        """Whether a shard can learn no more until it is saved."""
        return any(shard.is_full for shard in self.shards.values())

    @property
    def next(self) -> int | None:
        """The partition to take over next; None where there is none, or where a poll must tell first whose it is."""
        return None if self._is_doubtful else min(self.waiting, default=None)

    def polled(self) -> None:
        """Note that a poll has asked the group."""
        self._is_doubtful = False

    def rebalanced(self, came: Sequence[int], went: Sequence[int]) -> None:
        """Note the partitions that the group brought and took. Called from within a poll."""
        self._reach("assigning" if came else "revoking")
        # Wait for the batch that is being sent, which takes a bounded time: the next owner must not send it again.
        self.settle()
        if self._inflight.touches(went):
            self.drop("the group has given them to another")
        self._forget(went)
        self.waiting.difference_update(went)
        self.waiting.update(came)
        self._forget(came)
        if came or went:
            log.info("partitions assigned" if came else "partitions revoked", partitions=sorted(came or went))

    def take_over(self, partition: int) -> None:
        """Take over a partition that waits, and read it. Raises StoreAway, SourceAway, SinkAway and StateError."""
        # A transaction of this worker's own that is still open would make the committed offsets wait for it.
        self._sink.open()
        try:
            shard, steps = self._takeover.take(partition)
        except StoreFenced as error:
            # Another worker has claimed it meanwhile.
            self._is_doubtful = True
            raise StoreAway(str(error)) from error
        self._source.read_from(partition, *shard.place)
        if self.is_paused:
            self._source.pause([partition])
        self.shards[partition] = shard
        if self._mixer is not None:
            self._mixer.stand(partition, self._takeover.mix_offsets.get(partition))
        self._telemetry.takeovers.inc()
        self._learning.begin(shard, steps)
        self.waiting.discard(partition)

    def retake(self, partition: int) -> None:
        """Let a partition be taken over again whose snapshot the store has refused."""
        self.settle()
        if self._inflight.touches([partition]):
            self.drop("the store has refused the snapshot")
        self._is_doubtful = True
        self._forget([partition])
        self.waiting.update({partition} & self._source.assigned)

    def restart(self) -> None:
        """Let every partition be taken over again."""
        self.settle()
        if self._inflight.state != "empty":
            self._clear()
        self._forget(list(self.shards))
        if self._mixer is not None:
            self._mixer.replica.forget()
        self._is_doubtful = True
        self._wait_for(self._source.assigned)

    def settle(self) -> None:
        """Wait for the batch that is being sent; drop it when it can't be sent any more. Raises SourceLost."""
        try:
            self._inflight.settle()
        except BatchStale as error:
            self.drop(str(error))

    def drop(self, reason: str) -> None:
        """Drop the batches that can't be sent any more, and the shards that have learned them."""
        self._telemetry.stale_batches.inc()
        log.warning("batch dropped, its partitions are taken over again", reason=reason)
        partitions = sorted(self._inflight.partitions())
        self._clear()
        self._forget(partitions)
        self._wait_for(self._source.assigned.intersection(partitions))

    def pause(self) -> None:
        """Stop reading all partitions."""
        self.is_paused = True
        self._source.pause(self._source.assigned)

    def resume(self) -> None:
        """Read all shards on. Raises SourceAway."""
        # From the offsets of the shards: the client may have another position.
        for shard in self.shards.values():
            self._learning.read_again(shard)
        self.is_paused = False

    def _wait_for(self, partitions: Iterable[int]) -> None:
        self._source.pause(partitions)
        self.waiting.update(partitions)

    def _clear(self) -> None:
        self._inflight.clear()
        self._is_doubtful = True
        self._sink.close()

    def _forget(self, partitions: Sequence[int]) -> None:
        gone = [self.shards[partition] for partition in partitions if partition in self.shards]
        if self._mixer is not None and any(shard.unsaved for shard in gone):
            # The model that they share has learned records that another worker will learn and mix.
            self._mixer.replica.forget()
            partitions = list(self.shards)
            if self._inflight.state != "empty":
                self._clear()
            self.waiting.update(self._source.assigned.intersection(partitions))
        for partition in partitions:
            self.shards.pop(partition, None)
            self._learning.end(partition)
            self._saver.forget(partition)
