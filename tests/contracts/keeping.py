"""One partition's life against a real store, without Kafka: what a worker asks of the store, in the worker's order.

The log is a list here, and the committed offset a value; all else is what `headrace run` is made of.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import redis

from headrace.consumers.record import LabelRecord, Record
from headrace.consumers.source import Committed
from headrace.consumers.topics import Topic
from headrace.pipeline import assembly, model_factory
from headrace.pipeline.commands import model_command
from headrace.pipeline.config import config as configuration
from headrace.pipeline.config.config import Config
from headrace.pipeline.control.command_inbox import CommandInbox
from headrace.pipeline.control.control_topics import ControlTopics
from headrace.pipeline.recovery import offset_metadata
from headrace.pipeline.recovery.model_limit import ModelLimit
from headrace.pipeline.recovery.topic_identity import TopicIdentity
from headrace.pipeline.status.report import Observations, summarise
from headrace.pipeline.storage import open_store
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.mixer import Mixer
from headrace.pipeline.worker.saver import Saver
from headrace.pipeline.worker.takeover import Takeover
from headrace.state.loaded_model import ModelMissing
from headrace.state.row_packing import TableDamaged
from headrace.state.shard import Shard
from headrace.state.shared.mix_store import MixOffset
from headrace.state.store.roster import Roster
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreAway, StoreRefused

Kind = Literal["one model", "labels", "keys", "a mix"]
TOPIC = Topic(name="in", partitions=1, id="", value_bytes_max=1_000_000, compacted=False)
TRUTHS = Topic(name="truths", partitions=1, id="", value_bytes_max=1_000_000, compacted=False)
STEP = 6
_SCOPES = {"one model": "partition", "labels": "partition", "keys": "key", "a mix": "global"}
_MODEL = """
from river import linear_model, preprocessing

def build():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()
"""
_TRIES_MAX = 5


class Log:
    """What Kafka holds of a partition: its records, and what the group has committed."""

    def __init__(self, kind: Kind) -> None:
        self.labels = kind == "labels"
        self.ends: list[tuple[int, int]] = []
        self.place = Committed(-1, "")

    def committed(self, partitions: Sequence[int]) -> dict[int, Committed]:
        return dict.fromkeys(partitions, self.place)

    def watermarks(self, _partition: int, *, labels: bool = False) -> tuple[int, int]:
        return 0, self.ends[-1][labels] if self.ends else 0

    def grow(self) -> None:
        """Let a step of records come: each label is that of features of the step before."""
        features, labels = self.ends[-1] if self.ends else (0, 0)
        self.ends.append((features + STEP, features if self.labels else -1))
        assert labels <= features

    def records(self, start: tuple[int, int], end: tuple[int, int]) -> list[Record]:
        found: list[Record] = []
        for offset in range(start[0], end[0]):
            fields: dict[str, Any] = {"id": f"r{offset}", "features": {"a": offset % 7 - 3.5, "b": offset % 5 * 0.25}}
            if not self.labels:
                fields["label"] = offset % 3 == 0
            found.append(Record(0, offset, 1_000 + offset, b"k%d" % (offset % 4), json.dumps(fields).encode(), None))
        for offset in range(max(0, start[1]), max(0, end[1])):
            value = json.dumps({"id": f"r{offset}", "label": offset % 3 == 0}).encode()
            found.append(LabelRecord(0, offset, 2_000 + offset, b"k", value, None))
        return found


def project(directory: Path, url: str, kind: Kind, *, sign_key: str = "") -> Config:
    """Write a project down and load it."""
    (directory / "model.py").write_text(_MODEL)
    file = directory / "headrace.toml"
    labels = 'labels = "truths"\n' if kind == "labels" else ""
    file.write_text(
        f'name = "fraud"\n[topics]\nfeatures = "in"\n{labels}[redis]\nurl = "{url}"\nsign_key = "{sign_key}"\n'
        f'[model]\nscope = "{_SCOPES[kind]}"\ncompile = false\n[keys]\nhot_max = 2\n'
    )
    return configuration.load(file, flags={})


class Life:
    """One worker's life: it takes the partition over, relearns, and goes on."""

    def __init__(self, config: Config, log: Log) -> None:
        self._log = log
        redis = config.redis
        self.store = Store(redis.url.get_secret_value(), name=config.name, keep=2, sign_key=redis.signature)
        self.roster = Roster(self.store, name=config.name)
        self._telemetry = Telemetry()
        self._models = model_factory.models(config, self.store)
        self._engine = assembly.engine(config, batches=False)
        limit = ModelLimit(config.model.bytes_max)
        self._takeover = Takeover(
            source=log,  # type: ignore[arg-type]
            store=self.store,
            topic=TOPIC if not log.labels else Topic("in", 1, "", 1_000_000, compacted=False, labels=TRUTHS),
            identity=TopicIdentity(TOPIC, ask=lambda _names: {}),
            models=self._models,
            rules=assembly.rules(config, default=None),
            inbox=CommandInbox(
                ControlTopics("", "", fault="Kafka is in memory"), settings={}, group="fraud", clock=time.monotonic
            ),
            on_loss="relearn",
            limit=limit,
            telemetry=self._telemetry,
        )
        self._saver = Saver(
            self.store,
            topic=self._takeover._topic,
            interval_s=1.0,
            records_max=1_000_000,
            distrust=self._takeover.distrust,
            limit=limit,
            telemetry=self._telemetry,
            clock=lambda: 0.0,
        )
        self._shards: dict[int, Shard] = {}

    @property
    def shard(self) -> Shard:
        return self._shards[0]

    def take(self) -> None:
        """Take the partition over, and relearn what is committed."""
        self._shards.clear()
        shard, steps = self._takeover.take(0)
        for end in self._log.ends:
            if shard.is_relearning and end > shard.place:
                self._learn(shard, end, again=bool(steps))
        assert not shard.is_relearning
        self._takeover.settle(shard)
        self._shards[0] = shard

    def work(self) -> None:
        """Take what has come, commit it, and save."""
        for end in self._log.ends:
            if end > self.shard.place:
                self._learn(self.shard, end, again=False)
        self._log.place = Committed(self.shard.offset, offset_metadata.of(self.shard), self.shard.labels_offset)
        self.shard.confirm(*self.shard.place, mark=self._log.place.metadata)
        assert self.roster.hold(0, {"token": "mine", "place": "here"}, evict_place="here")

    def _learn(self, shard: Shard, end: tuple[int, int], *, again: bool) -> None:
        try:
            self._engine.run(shard, self._log.records(shard.place, end), now_ms=5)
        except TableDamaged as error:
            self._takeover.distrust(0)
            raise StoreAway(f"learned again: {error}") from error
        shard.end_step(end, is_recorded=again)

    def save(self) -> bool:
        """Save what was learned; tell whether it is saved, or the partition must be taken over again."""
        commons = self._models.replica
        if commons is None:
            return self._saver.finish(self.shard) == "saved"
        mixer = Mixer(
            commons,
            saver=self._saver,
            shards=self._shards,
            interval_s=1.0,
            interval_records=None,
            telemetry=self._telemetry,
            clock=lambda: 0.0,
        )
        mixer.stand(0, self._takeover.mix_offsets.get(0))
        if mixer.mix():
            self._takeover.mix_offsets[0] = MixOffset(self.shard.offset, self.shard.version)
            return True
        commons.forget()
        return False

    def live(self) -> None:
        """Do all that a worker does until what has come is saved, however often it must begin again."""
        for _ in range(_TRIES_MAX):
            try:
                self.take()
                self.work()
                if self.save():
                    return
            except StoreAway as error:
                # Rows that are damaged are found while records are learned, too: the partition begins again.
                if "learned again" not in str(error):
                    raise
        raise AssertionError("it never came to an end")

    def answers(self) -> Iterator[Any]:
        """Tell what the models answer."""
        for key in (b"k0", b"k1", b"k2", b"k3"):
            self.shard.model.fetch([key])
            yield self.shard.model.predict({"a": 1.5, "b": 0.5}, key)

    def end(self) -> None:
        self.store.client.close()


class Kept:
    """A store as it stood, to be put back as often as one likes."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client
        self._copies = {key: client.dump(key) for key in client.keys("*")}  # type: ignore[union-attr]
        self.hashes = {key: client.hgetall(key) for key in self._copies if client.type(key) == b"hash"}
        self.texts = [key for key in self._copies if client.type(key) == b"string"]

    def put_back(self) -> None:
        self._client.flushall()
        for key, copy in self._copies.items():
            self._client.restore(key, 0, copy)  # type: ignore[arg-type]


class Case:
    """A pipeline that has lived, and what its store and its log held then."""

    def __init__(self, directory: Path, url: str, kind: Kind, *, sign_key: str = "") -> None:
        self.directory, self.url, self.kind = directory, url, kind
        self.config = project(directory, url, kind, sign_key=sign_key)
        self.client = redis.Redis.from_url(url)
        self.client.flushall()
        self.log = Log(kind)
        self.live(2)
        self.older = Kept(self.client)
        self.live(1)
        self.kept, self.place = Kept(self.client), self.log.place
        self.log.grow()
        self.wanted = self.go_on()

    def live(self, steps: int) -> None:
        """Let a worker take some steps of the log, which grows by them where they are not there yet."""
        life = Life(self.config, self.log)
        for _ in range(steps):
            self.log.grow()
            life.live()
        life.end()

    def go_on(self) -> tuple[Any, ...]:
        """Let a worker take what came; return what another finds afterwards, and what it answers."""
        self.log.place = self.place
        for _ in range(2):
            life = Life(self.config, self.log)
            life.live()
            counts = life.shard.counts
            found = counts.records, counts.learned, *life.answers()
            life.end()
        return found[:2] if self.kind == "a mix" else found

    def hold(self, what: str) -> None:
        """Hold what comes of a store to what would have come."""
        self.look()
        assert self.go_on() == self.wanted, what

    def look(self) -> None:
        """Do what the commands do that look at the store."""
        store = open_store(self.config)
        try:
            snapshots = {p: notes[0] for p in store.partitions() if (notes := store.notes(p))}
            workers = list(Roster(store, name="fraud").notes().values())
            summarise("fraud", Observations(None, snapshots, workers, ["Kafka was not asked"]))
            model_command.ls(self.config, json=False)
            model_command.ls(self.config, json=True)
            model_command.show(self.config, which=None, version=None, json=True)
            if self.kind == "keys":
                model_command.show(self.config, which="k1", version=None, json=False)
        except (ModelMissing, StoreRefused, TableDamaged) as error:
            if not error.hint:
                raise
        finally:
            store.client.close()
