"""Tells when a run under --until-end is complete: all partitions are at the ends that the topics had at its start."""

from collections.abc import Callable, Mapping

from headrace.consumers.interleave import LogOffsets
from headrace.consumers.source import Committed, Source, SourceAway
from headrace.consumers.topics import Topic
from headrace.pipeline.recovery import consistency, survey
from headrace.pipeline.recovery.compatibility import check_mark
from headrace.pipeline.recovery.consistency import PartitionFacts, mark_of
from headrace.pipeline.worker.takeover import OnLoss, log_left_out
from headrace.state.models.model import Model
from headrace.state.shard import Shard
from headrace.state.store.store import Store

_ASK_S = 0.25


def find_ends(source: Source, topic: Topic) -> dict[int, LogOffsets]:
    """Return where the logs of each partition end now, -1 for one that is empty, and close the source.

    A partition is left out if both its logs are empty. Raises SourceAway.
    """
    try:
        ends = {
            partition: (
                _end_of(source, partition, labels=False),
                -1 if topic.labels is None else _end_of(source, partition, labels=True),
            )
            for partition in range(topic.partitions)
        }
    finally:
        source.close()
    return {partition: end for partition, end in ends.items() if end != (-1, -1)}


class Completion:
    """Watch for the `ends` of `topic` and of its labels, by partition.

    Other workers have partitions too, so the committed offsets decide. `shards` are this worker's; `make` makes models.
    """

    def __init__(
        self,
        source: Source,
        *,
        store: Store,
        topic: Topic,
        on_loss: OnLoss,
        make: Callable[[int], Model],
        shards: Mapping[int, Shard],
        ends: Mapping[int, LogOffsets],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._topic = topic
        self._on_loss = on_loss
        self._make = make
        self._source = source
        self._shards = shards
        self._ends = ends
        self._clock = clock
        self._ask_at = 0.0
        self._facts: list[PartitionFacts] = []

    def examine(self) -> None:
        """Check all partitions at the start: of one that is at its end already, no takeover would find a loss.

        Raises StateError, SourceAway and StoreAway.
        """
        if self._on_loss == "fresh":
            return
        self._facts = []
        for partition in range(self._topic.partitions):
            newest = survey.saved(self._store, partition)
            facts = survey.facts(partition, topic=self._topic, source=self._source, newest=newest)
            consistency.check(facts)
            self._facts.append(facts)

    def is_reached(self) -> bool:
        """Tell whether each partition, of this worker or another one, is at its end. Raises StateError."""
        if self._clock() < self._ask_at:
            return False
        if any(s.is_relearning or _is_before(s.place, self._ends.get(s.partition)) for s in self._shards.values()):
            return False
        self._ask_at = self._clock() + _ASK_S
        try:
            committed = self._source.committed(self._ends)
        except SourceAway:
            return False
        offsets = {partition: self._offsets_of(found) for partition, found in committed.items()}
        if any(_is_before(offsets[partition], end) for partition, end in self._ends.items()):
            return False
        self._check_untaken()
        return True

    def _check_untaken(self) -> None:
        """Check and log what a takeover would, for partitions that had nothing to do. Raises StateError."""
        untaken = [facts for facts in self._facts if facts.partition not in self._shards]
        model = self._make(0) if untaken else None
        for facts in untaken:
            if model is not None:
                check_mark(facts, model)
            if facts.saved is None:
                log_left_out(facts)

    def _offsets_of(self, committed: Committed) -> LogOffsets:
        """Return the committed offsets. The labels' own is in the mark, too: a broker may have forgotten it.

        An offset in a topic that was deleted says nothing of the topic that has its name now.
        """
        last = mark_of(committed.metadata, committed.offset)
        if last is not None and last.topic not in {"", self._topic.id}:
            return -1, -1
        return committed.offset, committed.labels if last is None or last.join is None else last.join.offset


def _is_before(place: LogOffsets, end: LogOffsets | None) -> bool:
    return end is not None and any(offset < to for offset, to in zip(place, end, strict=True))


def _end_of(source: Source, partition: int, *, labels: bool) -> int:
    low, high = source.watermarks(partition, labels=labels)
    return high if high > low else -1
