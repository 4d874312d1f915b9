"""Decides when a worker mixes its model with those of the others, and makes the round (scope = "global").

A round saves each shard that has learned something: its counts and the features that wait for labels. Then one script
brings the model and the offsets of all these shards into the mix. If a part of the round fails, the shards begin again
from the mix, since only the mix knows what is in it.
"""

from collections.abc import Callable, Mapping

import structlog

from headrace.pipeline.recovery.consistency import StateError
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.saver import Saver
from headrace.state.shard import Shard
from headrace.state.shared.mix_store import Contribution, MixDamaged, MixOffset
from headrace.state.shared.replica import Replica
from headrace.state.store.store_errors import StoreAway, StoreFenced

log = structlog.get_logger("headrace")

# Mixing may take this share of a worker's time.
_SHARE = 0.2
# The longest that one round may take.
_WITHIN_S = 5.0
# The mix may be found damaged, and be begun anew, this number of times in a row.
_CLAIMS_MAX = 3


class Mixer:
    """Mix a worker's model at least every `interval_s` seconds, and more often while the mix has few examples.

    With `interval_records` a round is due after this number of records, however old the mix is, and after `interval_s`
    if they do not come. `shards` are the worker's.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        saver: Saver,
        shards: Mapping[int, Shard],
        interval_s: float,
        interval_records: int | None,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self.replica = replica
        self._saver = saver
        self._shards = shards
        self._usual_s = self._interval_s = interval_s
        self._interval_records = interval_records
        self._telemetry = telemetry
        self._clock = clock
        self._offsets: dict[int, MixOffset | None] = {}
        self._due_at = clock() + interval_s

    @property
    def records_left(self) -> int:
        """The number of records that may be learned before the next round is due."""
        return max(1, self._wanted() - self.replica.learned)

    def stand(self, partition: int, offset: MixOffset | None) -> None:
        """Note how far the mix has come in a partition that was taken over."""
        self._offsets[partition] = offset

    def set_pace(self, interval_s: float) -> None:
        """Mix at least as often as this, and as often as is usual."""
        self._interval_s = min(self._usual_s, interval_s)
        self._due_at = min(self._due_at, self._clock() + self._interval_s)

    def due(self) -> bool:
        """Tell whether it is time for a round."""
        # A worker without anything new of its own looks for what the others have brought in.
        return self.replica.learned >= self._wanted() or self._clock() >= self._due_at

    def mix(self) -> bool:
        """Make a round; return False when the shards are to begin again from the mix. Raises StoreAway."""
        started = self._clock()
        try:
            return self._mix()
        except (StoreFenced, MixDamaged) as error:
            self._telemetry.mixes.labels("refused").inc()
            log.warning("contribution refused, the partitions are taken over again", reason=str(error))
            return False
        finally:
            # A round of a big model may take long: it must leave most of the time to learning.
            now = self._clock()
            self._due_at = now + max(self._interval_s, (now - started) / _SHARE)
            self._telemetry.mix_seconds.observe(now - started)

    def _mix(self) -> bool:
        moved = [shard for shard in self._shards.values() if shard.unsaved > 0]
        known = {partition: self._offsets.get(partition) for partition in sorted(self._shards)}
        if not self.replica.is_behind(known) and not moved:
            return True
        contributions: dict[int, Contribution] = {}
        for shard in moved:
            if self._saver.finish(shard) != "saved":
                return False
            now = MixOffset(shard.offset, shard.version)
            contributions[shard.partition] = Contribution(shard.epoch, self._offsets.get(shard.partition), now)
        learned = self.replica.learned
        if not self.replica.mix(contributions, within_s=_WITHIN_S):
            log.warning("the mix moved faster than this worker could follow, it begins again from there")
            return False
        self._offsets.update({partition: contribution.now for partition, contribution in contributions.items()})
        self._telemetry.mixes.labels("mixed" if contributions else "pulled").inc()
        self._telemetry.mixed.inc(learned)
        self._telemetry.mix_version.set(self.replica.version)
        return True

    def _wanted(self) -> int:
        return self.replica.due_after if self._interval_records is None else self._interval_records


def claim(replica: Replica, partition: int, epoch: int, *, stops: bool) -> MixOffset | None:
    """Become the owner of a partition in the mix, and return how far the mix has come in it.

    A damaged mix is given up, so that every partition is relearned. Raises StateError instead if it `stops` for that,
    and StoreAway.
    """
    for _ in range(_CLAIMS_MAX):
        try:
            _ = replica.local
            return replica.claim(partition, epoch)
        except MixDamaged as error:
            if stops:
                raise StateError(f"the mix of all workers is lost: {error}") from error
            log.warning("the mix is damaged, every partition is learned again", reason=str(error))
            replica.clear(error.number)
    raise StoreAway(f"partition {partition}: the mix of all workers is found damaged again and again")
