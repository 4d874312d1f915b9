"""A feature record that the model can answer, between the steps before the answer and those behind it."""

from typing import Any, NamedTuple

from headrace.consumers.record import Event, Record


class PreparedRecord(NamedTuple):
    """A decoded feature record, and the label that the model learns with it now, None for none.

    A record that is `labelled` waits for no label: it came with one, or it is a replay of a record that was learned, or
    waits, where it stood first. `has_label` tells that it came with one.
    """

    record: Record
    event: Event
    id: str
    label: Any
    labelled: bool
    has_label: bool
