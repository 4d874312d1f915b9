"""Reads the state of a pipeline from Kafka, the store and the workers' notes, for `status`, the page and `top`.

It changes nothing and does not join the group. Each source answers within seconds, or is named as silent.
"""

import os
import platform
from collections.abc import Mapping, Sequence

import msgspec

from headrace.consumers.group_offsets import GroupOffsets, PartitionOffsets
from headrace.consumers.partitioner import KEYS_MIN
from headrace.consumers.source import SourceAway, SourceError
from headrace.consumers.topics import Topic, Topics
from headrace.pipeline.config.config import Config
from headrace.pipeline.connection import explained
from headrace.pipeline.process.rundir import FolderRefused, RunDir
from headrace.pipeline.recovery import consistency, key_placement
from headrace.pipeline.status.report import Note, Observations, Report, alive
from headrace.pipeline.storage import open_store
from headrace.state.store.roster import Roster
from headrace.state.store.store_errors import StoreAway, StoreRefused

STORE_S = 2.0
"""How long to wait for an answer of the store, in seconds."""


class KafkaAnswer(msgspec.Struct, frozen=True):
    """What Kafka said: the offsets of each partition and the topic's identity, None without an answer."""

    places: Mapping[int, PartitionOffsets] | None = None
    topic: Topic | None = None
    faults: Sequence[str] = ()


class StoreAnswer(msgspec.Struct, frozen=True):
    """What the store said: the workers' notes, why workers stopped, and the notes of each partition's versions.

    `versions` has the newest first, and is None if the store did not answer. `is_away`: it may answer later.
    """

    workers: Mapping[int, Note] = {}
    stop_reasons: Sequence[str] = ()
    versions: Mapping[int, Sequence[Note]] | None = None
    faults: Sequence[str] = ()
    is_away: bool = False

    @property
    def newest(self) -> Mapping[int, Note] | None:
        """The note of each partition's newest version."""
        if self.versions is None:
            return None
        return {partition: notes[0] for partition, notes in self.versions.items() if notes}


class LocalAnswer(msgspec.Struct, frozen=True):
    """The notes of the workers that live on this machine, by ordinal."""

    workers: Mapping[int, Note] = {}
    faults: Sequence[str] = ()


class StatusReader:
    """Read the state of one pipeline, whole or from each source alone. `store_s` bounds an answer of the store."""

    def __init__(self, config: Config, *, store_s: float = STORE_S) -> None:
        self._places = GroupOffsets(
            config.librdkafka, group=config.name, topic=config.topics.features, labels=config.topics.labels
        )
        self._store = open_store(config, timeout_s=min(config.redis.timeout, store_s))
        self._roster = Roster(self._store, name=config.name)
        self._rundir = RunDir(config)
        self._conceal = config.conceal
        self._config = config
        self._topics = Topics({**config.librdkafka, "log_level": 0})
        self._topic, self._labels = config.topics.features, config.topics.labels

    def read(self) -> Observations:
        """Ask each source once; every answer takes a few seconds at most."""
        kafka = self.ask_kafka()
        store = self.ask_store(kafka.places)
        is_silent = store.versions is None and kafka.places
        unseen_members = self.count_members(kafka.places or {}) if is_silent else 0
        return self.observe(kafka, store, self.ask_workers(), unseen_members=unseen_members)

    def ask_kafka(self) -> KafkaAnswer:
        """Ask Kafka for the committed offsets and the ends of the logs."""
        places, faults = None, []
        try:
            places = {partition: consistency.by_mark(place) for partition, place in self._places.read().items()}
            if not places:
                faults.append(f"the topic {self._topic} is not there yet; `headrace run` makes it")
            return KafkaAnswer(places, self._topics.identify(self._topic, self._labels), faults)
        except (SourceAway, SourceError) as error:
            return KafkaAnswer(places, None, [*faults, str(explained(error, self._config))])

    def ask_store(self, places: Mapping[int, PartitionOffsets] | None) -> StoreAnswer:
        """Ask the store for the workers and the versions of these partitions; of all that it has without `places`."""
        try:
            workers, reasons = self._roster.notes(), self._roster.reasons()
            partitions = sorted(places) if places else self._store.partitions()
            return StoreAnswer(workers, reasons, {number: self._store.notes(number) for number in partitions})
        except (StoreAway, StoreRefused) as error:
            is_away = isinstance(error, StoreAway)
            return StoreAnswer(faults=[str(explained(error, self._config))], is_away=is_away)

    def ask_workers(self) -> LocalAnswer:
        """Read the notes of the workers on this machine."""
        try:
            return LocalAnswer(self._rundir.notes())
        except FolderRefused as error:
            return LocalAnswer(faults=[str(error)])

    def count_members(self, places: Mapping[int, PartitionOffsets]) -> int:
        """Count the members of the group. If Kafka can't tell, a pipeline that has committed counts as one member."""
        members = self._places.members()
        return any(place.committed is not None for place in places.values()) if members is None else members

    def observe(
        self, kafka: KafkaAnswer, store: StoreAnswer, local: LocalAnswer, *, unseen_members: int = 0
    ) -> Observations:
        """Bring the answers together, with what contradicts itself in them."""
        found = map(str, consistency.faults(kafka.topic, kafka.places or {}, store.newest or {}))
        faults = [*kafka.faults, *store.faults, *found, *local.faults]
        workers = alive(store.workers, local.workers, host=platform.node(), running=_running(store.workers))
        return Observations(
            kafka.places, store.newest, workers, [*map(self._conceal, faults)], unseen_members, store.stop_reasons
        )

    def check_keys(self, report: Report) -> Report:
        """Check the keys of both topics if many labels and many features wait, and no worker has said why."""
        labels = report.labels
        if report.warnings or labels is None or min(labels.waiting, labels.waiting_early) < KEYS_MIN:
            return report
        advices = key_placement.look(self._config, partitions=len(report.partitions))
        return msgspec.structs.replace(report, warnings=[advice.message for advice in advices])


def _running(stored: Mapping[int, Note]) -> dict[int, bool]:
    """Return for each process id in the notes whether such a process runs on this machine."""
    found: dict[int, bool] = {}
    for note in stored.values():
        try:
            os.kill(note["pid"], 0)
        except ProcessLookupError:
            found[note["pid"]] = False
        except OSError:
            # The process belongs to another user, so it exists.
            found[note["pid"]] = True
        else:
            found[note["pid"]] = True
    return found
