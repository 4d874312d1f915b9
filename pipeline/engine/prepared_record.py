"""A feature record that the model can answer, between the steps before the answer and those behind it."""

from typing import Any, NamedTuple

import msgspec

from headrace.consumers.record import Event, Record
from headrace.state.models.model import Model, Unlabelled


class PreparedRecord(NamedTuple):
    """A decoded feature record, and the label that scores its answer now (`truth`), None for none.

    A record that is `labelled` waits for no label: it came with one, or it is a replay of a record that was learned, or
    waits, where it stood first. `has_label` tells that it came with one. A record that is `withheld` is such a replay:
    nothing learns it again.
    """

    record: Record
    event: Event
    id: str
    truth: Any
    labelled: bool
    has_label: bool
    withheld: bool

    def label_for(self, model: Model) -> Any:
        """Return what a model learns with the record now, None for nothing: the label, or the lack of one."""
        if not model.can.unlabelled:
            return self.truth
        return None if self.withheld else Unlabelled(self.at_ms)

    @property
    def at_ms(self) -> int:
        """The time of the record: of its event, or of the log where it has none."""
        ts = self.event.ts
        return self.record.timestamp_ms if ts is msgspec.UNSET else ts
