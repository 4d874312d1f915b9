"""The keys of a batch, for models that have a model for each key."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from headrace.consumers.fastjson.scan import Scan
from headrace.consumers.record import Event
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.refusal import NO_KEY, Refusal
from headrace.state.event_time import StrayTime, StrayTimes

_NO_TIME = -1


class KeyColumn:
    """The keys of a batch, each with a model of its own; a record without a key is to be refused."""

    def __init__(
        self,
        batch: RecordBatch,
        scan: Scan,
        events: Mapping[int, Event],
        left_out: Collection[int],
    ) -> None:
        self._offsets = batch.offsets
        self._keys = [key or b"" for key in batch.keys]
        times = scan.ts.copy()
        for position, event in events.items():
            times[position] = _NO_TIME if event.ts is msgspec.UNSET else event.ts
        logged = np.fromiter(batch.timestamps, np.int64, len(batch))
        self._keyless = []
        self._met = self._keys
        self._positions: Sequence[int] = range(len(batch))
        self._times = times, logged
        if left_out or None in batch.keys:
            # An empty key is a key.
            self._keyless = [at for at, key in enumerate(batch.keys) if key is None and at not in left_out]
            # A record whose label is refused has been seen as well.
            met = [at for at, key in enumerate(batch.keys) if key is not None and at not in left_out]
            self._met, self._positions = [self._keys[at] for at in met], met
            self._times = times[met], logged[met]

    def refuse(self, refusals: dict[int, Refusal]) -> None:
        """Refuse the records that have no key, whatever else is wrong with them."""
        refusals.update(dict.fromkeys(self._keyless, NO_KEY))

    def met(self, good: Any) -> Mapping[str, Any]:
        """Return what `learn_batch` is told of keys, where the good records are answered."""
        answered = None if len(good) == len(self._met) else np.searchsorted(self._positions, good)
        return {"keys": self._met, "answered": answered, "times": self._times}

    def note(self, ahead: Iterable[tuple[int, int]], strays: StrayTimes) -> None:
        """Note the records whose event time was not believed."""
        for place, ahead_ms in ahead:
            strays.note(StrayTime(self._offsets[self._positions[place]], ahead_ms))
