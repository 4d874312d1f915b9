"""When workers mix their models, and what a round is made of (scope = "global").

A round saves each shard that has moved, its counts and what waits for labels, and then brings the model and the places
of all of them into the mix, in one script. If anything of it fails, the shards begin again from where the mix stands:
only there is it known what is in it.
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

# Mixing may take this share of a worker's time, and one round so long.
_SHARE = 0.2
_WITHIN_S = 5.0
# So often in a row may the mix be found damaged, and be begun anew.
_CLAIMS_MAX = 3


class Mixer:
    """Mix a worker's model at least every `interval_s` seconds, and oftener while it is young.

    With `interval_records` it is mixed after that many, young or not, and by the time only when they do not come.
    `shards` are the runner's.
    """

    def __init__(
        self,
        commons: Replica,
        *,
        saver: Saver,
        shards: Mapping[int, Shard],
        interval_s: float,
        interval_records: int | None,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self.commons = commons
        self._saver = saver
        self._shards = shards
        self._interval_s = interval_s
        self._interval_records = interval_records
        self._telemetry = telemetry
        self._clock = clock
        self._places: dict[int, MixOffset | None] = {}
        self._due_at = clock() + interval_s

    @property
    def records_left(self) -> int:
        """How many more records may be learned before a round should be made."""
        return max(1, self._wanted() - self.commons.learned)

    def stand(self, partition: int, place: MixOffset | None) -> None:
        """Note how far the mix has come in a partition that was taken over."""
        self._places[partition] = place

    def due(self) -> bool:
        """Tell whether it is time for a round."""
        # Without anything new of its own, a worker looks for what the others have brought in.
        return self.commons.learned >= self._wanted() or self._clock() >= self._due_at

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
        known = {partition: self._places.get(partition) for partition in sorted(self._shards)}
        if not self.commons.is_behind(known) and not moved:
            return True
        contributions: dict[int, Contribution] = {}
        for shard in moved:
            if self._saver.finish(shard) != "saved":
                return False
            now = MixOffset(shard.offset, shard.version)
            contributions[shard.partition] = Contribution(shard.epoch, self._places.get(shard.partition), now)
        learned = self.commons.learned
        if not self.commons.mix(contributions, within_s=_WITHIN_S):
            log.warning("the mix moved faster than this worker could follow, it begins again from there")
            return False
        self._places.update({partition: contribution.now for partition, contribution in contributions.items()})
        self._telemetry.mixes.labels("mixed" if contributions else "pulled").inc()
        self._telemetry.mixed.inc(learned)
        self._telemetry.mix_version.set(self.commons.version)
        return True

    def _wanted(self) -> int:
        return self.commons.due_after if self._interval_records is None else self._interval_records


def claim(commons: Replica, partition: int, epoch: int, *, stops: bool) -> MixOffset | None:
    """Become the owner of a partition of the mix, and return how far it has come in it.

    A mix that is damaged is given up, so that every partition is learned again; where it `stops` for that, raises
    StateError. Raises StoreAway.
    """
    for _ in range(_CLAIMS_MAX):
        try:
            _ = commons.local
            return commons.claim(partition, epoch)
        except MixDamaged as error:
            if stops:
                raise StateError(f"the mix of all workers is lost: {error}") from error
            log.warning("the mix is damaged, every partition is learned again", reason=str(error))
            commons.clear(error.number)
    raise StoreAway(f"partition {partition}: the mix of all workers is found damaged again and again")
