"""Notices partitions that no worker has, and decides who mends that by leaving the group and being started again.

Cooperative members hand a partition over in two rebalances. A static member that dies between them comes back to what
it was to keep, as if nothing had happened; then the second rebalance never comes, and what it gave away is nobody's for
as long as nobody joins or leaves. Pure: the workers' notes and the time are arguments.
"""

from collections.abc import Mapping
from typing import Any

Notes = Mapping[int, Mapping[str, Any]]
"""What each worker that is at work says of itself, by ordinal: the partitions that it was `assigned`, among others."""


class Vacancy:
    """Watch the partitions of a topic, which may be vacant for `patience_s` seconds: a dead worker's are, by rights."""

    def __init__(self, *, partitions: int, patience_s: float) -> None:
        self._partitions = partitions
        self._patience_s = patience_s
        self._since: dict[int, float] = {}

    def mends(self, notes: Notes | None, *, ordinal: int, now_s: float) -> list[int]:
        """Return what has been vacant for too long, if it is for the worker `ordinal` to mend; then it waits anew.

        That is the one that has the least to lose by it. None for `notes` says that nothing is known now.
        """
        if notes is None:
            self._since.clear()
            return []
        held = {partition for note in notes.values() for partition in note.get("assigned", ())}
        vacant = set(range(self._partitions)) - held
        self._since = {partition: self._since.get(partition, now_s) for partition in vacant}
        late = [partition for partition, since in sorted(self._since.items()) if now_s - since > self._patience_s]
        if not late:
            return []
        self._since.clear()
        least = min(notes, key=lambda number: (len(notes[number].get("assigned", ())), number), default=None)
        return late if least == ordinal else []
