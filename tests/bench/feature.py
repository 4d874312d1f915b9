"""What the features cost that one turns on: each a run of Headrace beside a plain one over the same records.

Plain is one model a partition, with the labels in the records. All records lie in Kafka before a run begins, and the
start is left out as it is for the peers.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass, field

from meter import PeerFailed, Speed, speed, watch
from project import Project
from stream import LABELS_LATER, keyed, labels, unlabelled
from topic import Board, ids

from state.keyring import TABLE as KEYS
from state.pool import Pool
from state.store import Store

PLAIN = "plain"
KEY_COUNTS = (10, 1_000, 100_000, 1_000_000)

_LABELS = "bench.labels"
_UNLABELLED = "bench.unlabelled"
_KEYED = {"model.scope": "key"}
_GLOBAL = {"model.scope": "global"}


@dataclass(frozen=True, slots=True)
class Case:
    """One way to run Headrace: over which topic of `count` records, with what, and the case that it is held against."""

    name: str
    title: str
    features: str
    count: int
    beside: str = PLAIN
    settings: dict[str, str] = field(default_factory=dict)
    workers: int = 1
    keys: int = 0


def cases(parts: Collection[str], *, features: str, count: int, million_count: int) -> list[Case]:
    """Return the cases of the chosen parts, each behind the plain run that it is held against."""
    found = [Case(PLAIN, "plain: scope partition, labels inside", features, count)]
    if "labels" in parts:
        settings = {"topics.labels": _LABELS}
        found.append(Case("labels", "labels in a topic of their own", _UNLABELLED, count, settings=settings))
    if "keys" in parts:
        found += _keyed_cases(count, million_count)
    if "mixing" in parts:
        found += [
            Case("global", "mixing, 1 worker", features, count, settings=_GLOBAL),
            Case("plain2", "plain, 2 workers", features, count, beside="plain2", workers=2),
            Case("global2", "mixing, 2 workers", features, count, beside="plain2", settings=_GLOBAL, workers=2),
        ]
    return found


def _keyed_cases(count: int, million_count: int) -> list[Case]:
    found = []
    for keys in KEY_COUNTS:
        topic, title, beside, records = f"bench.keys.{keys}", f"a model a key, of {keys:,}", PLAIN, count
        if keys == KEY_COUNTS[-1] and million_count != count:
            beside, records = "plain.more", million_count
            found.append(Case(beside, f"plain, {records:,} records", topic, records, beside=beside))
        found.append(Case(f"keys.{keys}", title, topic, records, beside=beside, settings=_KEYED, keys=keys))
    return found


class Bench:
    """Runs of Headrace over topics that `prepare` fills. `keys` tells how many there were, by case."""

    def __init__(self, project: Project, board: Board, *, partitions: int) -> None:
        self._project = project
        self._board = board
        self._partitions = partitions
        self.keys: dict[str, int] = {}

    def prepare(self, chosen: Collection[Case]) -> None:
        """Fill the topics that the cases read, but that of the plain records."""
        for case in chosen:
            if case.keys:
                self._board.fill(case.features, keyed(case.count, keys=case.keys, partitions=self._partitions))
                rows = keyed(case.count, keys=case.keys, partitions=self._partitions)
                self.keys[case.name] = len({row["key"] for row in rows})
            elif case.features == _UNLABELLED:
                # All of it is over by now: a label's time in the log is that of its coming.
                started_ms = time.time_ns() // 1_000_000 - case.count - LABELS_LATER
                self._board.fill(_UNLABELLED, unlabelled(case.count, started_ms=started_ms))
                self._board.fill(_LABELS, labels(case.count, started_ms=started_ms))

    def measure(self, case: Case, repeat: int) -> Speed:
        """Run one case over all records, check what it did, and return its speed. Raises PeerFailed."""
        name = f"bench.{case.name}.{repeat}"
        self._board.make(name)
        command, env = self._project.command(name, features=case.features, settings=case.settings, workers=case.workers)
        log = self._project.log(name)
        samples = watch(command, env=env, log=log, count=case.count, ends=lambda: self._board.ends(name))
        values = self._board.read(name)
        if not len(ids(values)) == sum(map(len, values.values())) == case.count:
            raise PeerFailed(f"{case.title}: {len(ids(values))} of {case.count} records have an answer")
        self._check_state(case, name)
        return speed(samples, [sorted(values[partition]) for partition in range(self._partitions)], case.count)

    def _check_state(self, case: Case, name: str) -> None:
        """See that all was learned, once, and as the case says; then make room in the store."""
        store = Store(self._project.addresses.redis, name=name)
        held = [notes[0] for partition in range(self._partitions) if (notes := store.notes(partition))]
        learned = sum(note["learned"] for note in held)
        if learned != case.count:
            raise PeerFailed(f"{case.title}: {learned} of {case.count} records are learned in the store")
        keys = sum(note["tables"][KEYS] for note in held) if case.keys else 0
        if keys != self.keys.get(case.name, 0):
            raise PeerFailed(f"{case.title}: the store has {keys} keys, and there were {self.keys[case.name]}")
        if case.settings == _GLOBAL:
            mix = Pool(store, name=name).load().mix
            if mix is None or mix.examples != case.count:
                raise PeerFailed(f"{case.title}: {mix and mix.examples} of {case.count} records are in the mix")
        for key in store.client.scan_iter(match=f"{name}:*", count=1_000):
            store.client.unlink(key)
