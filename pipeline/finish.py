"""When a run that is to end by itself is done: the ends of both topics, as they were when it started, are reached."""

from collections.abc import Callable, Mapping

from consumers.source import Committed, Source, SourceAway
from consumers.weave import Place
from pipeline import mark
from state.shard import Shard

_ASK_S = 0.25


class Finish:
    """Watch for `ends`, by partition, of the features and of the labels. `shards` are the runner's.

    Other workers have partitions, too, so the committed offsets decide.
    """

    def __init__(
        self, source: Source, *, shards: Mapping[int, Shard], ends: Mapping[int, Place], clock: Callable[[], float]
    ) -> None:
        self._source = source
        self._shards = shards
        self._ends = ends
        self._clock = clock
        self._ask_at = 0.0

    def is_reached(self) -> bool:
        """Tell whether every partition of the topics, of this worker and the others, is at its end."""
        if self._clock() < self._ask_at:
            return False
        if any(s.is_relearning or _is_before(s.place, self._ends.get(s.partition)) for s in self._shards.values()):
            return False
        self._ask_at = self._clock() + _ASK_S
        try:
            committed = self._source.committed(self._ends)
        except SourceAway:
            return False
        places = {partition: _place_of(found) for partition, found in committed.items()}
        return not any(_is_before(places[partition], end) for partition, end in self._ends.items())


def _place_of(committed: Committed) -> Place:
    """Return the committed place; the mark remembers the labels', whose own offset a broker may have forgotten."""
    last = mark.read(committed.metadata)
    return committed.offset, committed.labels if last is None or last.join is None else last.join.offset


def _is_before(place: Place, end: Place | None) -> bool:
    return end is not None and any(offset < to for offset, to in zip(place, end, strict=True))
