"""The bench: runs a case over all of its records, compares its predictions with the others', and returns its speed."""

import time
from collections.abc import Collection, Mapping

from case import Case
from lineup import HEADRACE, Lineup
from meter import PeerFailed, Speed, speed, watch
from project import Project
from stream import LABELS_LATER, labels, unlabelled
from topic import Answers, Board, answers, difference

from headrace.state.keyed.keyring import TABLE as KEYS
from headrace.state.shared.mix_store import MixStore
from headrace.state.store.store import Store

APART_MAX = 1e-9
"""Probabilities with a larger difference count as different."""

Values = Mapping[int, Mapping[int, bytes]]


class Bench:
    """Runs of peers and of Headrace over topics that `prepare` fills.

    `keys` is the number of keys, by case. `apart` is the largest difference of a case's probabilities from those of the
    first case that read the same feed. `snapshots` is the number that Headrace saved in its last run.
    """

    def __init__(self, project: Project, board: Board, lineup: Lineup, *, broker: int) -> None:
        self._project = project
        self._board = board
        self._lineup = lineup
        self._broker = broker
        self._answers: dict[str, Answers] = {}
        self._filled: set[str] = set()
        self.keys: dict[str, int] = {}
        self.apart: dict[str, float] = {}
        self.snapshots = 0

    def prepare(self, chosen: Collection[Case]) -> None:
        """Fill the topics that the cases read and that do not exist yet."""
        for case in chosen:
            feed = case.feed
            if feed.keys:
                self.keys[case.name] = len({row["key"] for row in feed.rows()})
            if feed.name in self._filled:
                continue
            self._filled.add(feed.name)
            if not feed.labels:
                self._board.fill(feed.name, feed.partitions, feed.rows())
                continue
            # All records are in the past: the time of a label in the log is the time at which it came.
            started_ms = time.time_ns() // 1_000_000 - feed.count - LABELS_LATER
            self._board.fill(feed.name, feed.partitions, unlabelled(feed.count, started_ms=started_ms))
            self._board.fill(feed.labels, feed.partitions, labels(feed.count, started_ms=started_ms))

    def measure(self, case: Case, repeat: int) -> Speed:
        """Run one case over all records, check what it did, and return its speed. Raises PeerFailed."""
        name, partitions = f"bench.{case.part or 'plain'}.{case.name}.{repeat}", case.feed.partitions
        topics = [name, *([f"{name}.dlq"] if case.feed.bad else [])]
        for topic in topics:
            self._board.make(topic, partitions)
        command, env = self._command(case, name)
        samples = watch(
            command,
            env=env,
            log=self._project.log(name),
            count=case.records,
            ends=lambda: tuple(end for topic in topics for end in self._board.ends(topic, partitions)),
            broker=self._broker,
        )
        read = [self._board.read(topic, partitions) for topic in topics]
        self._check(case, *read)
        if case.program.startswith(HEADRACE):
            self._check_promise(case, name, sum(samples[-1].ends))
        return speed(samples, [sorted(held) for values in read for held in values.values()], case.records)

    def _command(self, case: Case, name: str) -> tuple[list[str], dict[str, str]]:
        if case.program.startswith(HEADRACE):
            settings = {**case.settings, "topics.dead_letters": f"{name}.dlq"}
            return self._project.command(name, features=case.feed.name, settings=settings, workers=case.workers)
        bootstrap = self._project.addresses.kafka
        registry = case.settings.get("registry.url", "")
        return self._lineup.command(
            case.program,
            bootstrap=bootstrap,
            features=case.feed.name,
            output=name,
            count=case.records,
            registry=registry,
        )

    def _check(self, case: Case, values: Values, refused: Values | None = None) -> None:
        """Check that each record has one prediction, and that it is the same as the others' where it must be."""
        found = sum(map(len, values.values()))
        dead = sum(map(len, (refused or {}).values()))
        if found + dead != case.records or (case.feed.bad and found != case.feed.good):
            raise PeerFailed(f"{case.title} gave {found} answers and {dead} dead letters to {case.records} records")
        if case.program == "copy":
            return
        given = answers(values)
        if len(given) != found:
            raise PeerFailed(f"{case.title} answered {found - len(given)} records twice")
        # Other models, or labels that come at other times, give other predictions.
        if not case.settings.keys() & {"model.scope", "topics.labels"}:
            apart = difference(given, self._answers.setdefault(case.feed.answers or case.feed.name, given))
            if apart > APART_MAX:
                raise PeerFailed(f"{case.title} did not predict what the others did: {apart:.1g} apart")
            self.apart[case.name] = max(apart, self.apart.get(case.name, 0.0))

    def _check_promise(self, case: Case, name: str, ends: int) -> None:
        """Check that all records were learned once, as the case says; then free the memory of the store."""
        if (ends > case.records) != (case.program == HEADRACE):
            raise PeerFailed(f"{case.title}: {ends} offsets for {case.records} records is another guarantee")
        store = Store(self._project.addresses.redis, name=name)
        held = [notes[0] for partition in range(case.feed.partitions) if (notes := store.notes(partition))]
        learned, good = sum(note["learned"] for note in held), case.feed.good
        if learned != good:
            raise PeerFailed(f"{case.title}: {learned} of {good} records are learned in the store")
        keys = sum(note["tables"][KEYS] for note in held) if case.feed.keys else 0
        if keys != self.keys.get(case.name, 0):
            raise PeerFailed(f"{case.title}: the store has {keys} keys, and there were {self.keys[case.name]}")
        if case.settings.get("model.scope") == "global":
            mix = MixStore(store, name=name).load().mix
            if mix is None or mix.examples != good:
                raise PeerFailed(f"{case.title}: {mix and mix.examples} of {good} records are in the mix")
        self.snapshots = sum(note["version"] for note in held)
        for key in store.client.scan_iter(match=f"{name}:*", count=1_000):
            store.client.unlink(key)
