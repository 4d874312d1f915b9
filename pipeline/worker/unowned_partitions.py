"""Notices partitions that no worker has, and decides who mends that by leaving the group and being started again.

Cooperative members hand a partition over in two rebalances. A static member that dies between them comes back to what
it was to keep, as if nothing had happened; then the second rebalance never comes, and what it gave away is nobody's for
as long as nobody joins or leaves. Pure: the workers' notes and the time are arguments.
"""

from collections.abc import Mapping
from typing import Any

Notes = Mapping[int, Mapping[str, Any]]
"""What each worker that is at work says of itself, by ordinal: the partitions that it was `assigned` and whether it is
a `member` of the group now, among others."""

# Two looks further apart than this tell nothing of the time between.
_LOOKS_S = 5.0


class UnownedPartitions:
    """Watch the partitions of a topic, which may be vacant for `patience_s` seconds: a dead worker's are, by rights."""

    def __init__(self, *, partitions: int, patience_s: float) -> None:
        self._partitions = partitions
        self._patience_s = patience_s
        self._since: dict[int, float] = {}
        self._looked_at = 0.0

    def mends(self, notes: Notes | None, *, ordinal: int, now_s: float) -> list[int]:
        """Return what has been vacant for too long, if it is for the worker `ordinal` to mend; then it waits anew.

        That is the one that has the least to lose by it. None for `notes` says that nothing is known now.
        """
        known = notes is not None and now_s < self._looked_at + _LOOKS_S
        self._looked_at = now_s
        if not known:
            self._since.clear()
        if notes is None:
            return []
        held = {partition for note in notes.values() for partition in note.get("assigned", ())}
        vacant = set(range(self._partitions)) - held
        self._since = {partition: self._since.get(partition, now_s) for partition in vacant}
        late = [partition for partition, since in sorted(self._since.items()) if now_s - since > self._patience_s]
        if not late:
            return []
        self._since.clear()
        members = [number for number, note in notes.items() if note.get("member")]
        least = min(members, key=lambda number: (len(notes[number]["assigned"]), number), default=None)
        return late if least == ordinal else []
