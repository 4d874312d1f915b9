"""Loads models from the store for the server: the newest of a partition, the one of all workers, or a kept version."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from headrace.pipeline import model_factory
from headrace.pipeline.config.config import Config
from headrace.pipeline.serve.models.served_model import ServedModel
from headrace.state.keyed.key_row import FetchRows
from headrace.state.keyed.keyring import TABLE as KEYS
from headrace.state.loaded_model import ModelMissing, saved_model
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Model
from headrace.state.row_packing import TableVersion
from headrace.state.shard_model import table_name
from headrace.state.shared.mix_store import MixOffset, MixStore
from headrace.state.shared.replica import Replica
from headrace.state.snapshot import Snapshot
from headrace.state.store.key_rows import KeyRows
from headrace.state.store.store import Store

_KEYS_MAX = 20_000
_ROWS = 1 << 40


class SnapshotForeign(Exception):
    """Raised when a snapshot in the store is of another topic than the configured one."""

    status = 409
    hint = "set topics.features as the pipeline has it, or serve under another `name`"


class KeyedModel(ServedModel):
    """The models of a partition's keys, all of one version. `rows` has those that were read, None for an unknown key.

    `newborn` answers for an unknown key: the model is new, and its version 0.
    """

    __slots__ = ("_new", "newborn", "rows", "table")

    def __init__(self, new: "Callable[[FetchRows], Model]", *, table: str, **place: Any) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.table = table
        self._new = new
        super().__init__(new(self._fetch), **place)
        self.newborn = ServedModel(self.model, **{**place, "version": 0})

    def take(self, keys: Sequence[bytes], rows: Sequence[bytes | None]) -> None:
        """Take rows that were read. With too many keys in memory, all others are dropped first."""
        if len(self.rows) + len(keys) > _KEYS_MAX:
            self.rows.clear()
            self.model = self.newborn.model = self._new(self._fetch)
        self.rows.update(zip(keys, rows, strict=True))

    def _fetch(self, keys: Sequence[bytes], _stored: TableVersion) -> list[bytes | None]:
        return [self.rows.get(key) for key in keys]

    def confirm(self, at_s: float) -> None:
        """Note that the store said at a time that this version is the newest."""
        super().confirm(at_s)
        self.newborn.confirm(at_s)


class ModelLoader:
    """Load models of a configuration from a `store`. `build` returns a new model, compiled if possible.

    A model that answers no more comes back by `recycle`, and a later version is loaded into it: to build one takes
    longer than to load it.
    """

    def __init__(self, config: Config, store: Store) -> None:
        self._config = config
        self._store = store
        self._build = model_factory.builder(config)
        self._spares: list[tuple[Model, RiverLearner]] = []
        self._rows = KeyRows(store)

    def newest(self, partition: int, version: int, *, confirmed_s: float, name: str = "") -> ServedModel:
        """Load a version of a partition. `name` is that of a model which does not answer in the stream.

        Raises ModelMissing, ModelMismatch, ModelError, SnapshotForeign, and the errors of the store.
        """
        found = self._store.load(partition, newest=version)
        if found.snapshot is None or found.version != version:
            why = "; ".join(found.faults) or "it is gone"
            raise ModelMissing(f"version {version} of partition {partition} can't be read: {why}")
        return self._served(found.snapshot, version, confirmed_s=confirmed_s, name=name)

    def _served(self, snapshot: Snapshot, version: int, *, confirmed_s: float, name: str) -> ServedModel:
        if snapshot.topic != self._config.topics.features:
            raise SnapshotForeign(f"the snapshot is of the topic {snapshot.topic}")
        partition, join = snapshot.partition, snapshot.join
        place: dict[str, Any] = {
            "name": self._config.name,
            "model_name": name,
            "version": version,
            "partition": partition,
            "offsets": {partition: snapshot.offset},
            "labels_offsets": {} if join is None else {partition: join.offset},
            "learned": snapshot.counts.learned,
            "generation": snapshot.history.generation,
            "confirmed_s": confirmed_s,
        }
        if self._config.model.scope == "key":
            table = table_name(name or snapshot.answers, KEYS)
            return KeyedModel(partial(self._keyring, snapshot, name), table=table, **place)
        build = self._builder_of(snapshot, name)
        if self._spares and build is self._build:
            model, single = self._spares.pop()
        else:
            model, single = model_factory.fastest(self._config, build()), build()
        model.load(saved_model(snapshot, name, model).state)
        if not model.can.batches:
            return ServedModel(model, **place)
        # River is the fastest for one record at a time.
        single.adopt(model.to_river())
        return ServedModel(model, single=single, **place)

    def _keyring(self, snapshot: Snapshot, name: str, fetch: FetchRows) -> Model:
        ring = model_factory.keyring(self._config, self._builder_of(snapshot, name), (fetch, lambda: iter(())))
        ring.load(saved_model(snapshot, name, ring).state)
        # It never has the rows of all keys: so it asks for each that it lacks.
        ring.resume(TableVersion(0, 0, _ROWS))
        return ring

    def rows(self, served: KeyedModel, keys: Sequence[bytes]) -> list[bytes | None] | int:
        """Read the rows of keys, or the newest version, if it is another. Raises StoreAway, TableDamaged."""
        return self._rows.at(served.partition, served.table, keys, version=served.version)

    def mix(self, *, confirmed_s: float) -> ServedModel:
        """Load the newest model of all workers. Raises ModelMissing, ModelError, MixDamaged, StoreAway."""
        replica = Replica(MixStore(self._store, name=self._config.name), self._build, run_as=self._fastest())
        model = replica.local.inner
        if not replica.version:
            raise ModelMissing("the store holds no model of all workers yet")
        return ServedModel(
            model,
            name=self._config.name,
            version=replica.version,
            partition=-1,
            offsets=replica.offsets,
            labels_offsets=self._labels_offsets(replica.places),
            learned=replica.examples,
            confirmed_s=confirmed_s,
        )

    def _labels_offsets(self, places: Mapping[int, MixOffset]) -> dict[int, int]:
        """Return the offset of the labels in each partition, at the snapshot that the mix was made with."""
        if self._config.topics.labels is None:
            return {}
        found = {}
        for partition, place in places.items():
            notes = {note["version"]: note for note in self._store.notes(partition)}
            found[partition] = int(notes.get(place.version, {}).get("labels_offset", -1))
        return found

    def _builder_of(self, snapshot: Snapshot, name: str) -> Callable[[], RiverLearner]:
        """Return the function that builds a model of a snapshot: one that was a challenger has a factory of its own."""
        factory = snapshot.factory_of(name)
        return model_factory.builder_of(self._config, factory) if factory else self._build

    def recycle(self, served: ServedModel) -> None:
        """Take back a model that answers no more."""
        single = served.single
        if (
            not self._spares
            and isinstance(single, RiverLearner)
            and not served.model_name
            and single.spec == self._spec
        ):
            self._spares.append((served.model, single))

    @cached_property
    def _spec(self) -> str:
        """How a model of the configured factory is built."""
        return self._build().spec

    def new(self) -> Model:
        """Return a new model. Raises ModelError."""
        return model_factory.fastest(self._config, self._build())

    def _fastest(self) -> Callable[..., Model]:
        return lambda built: model_factory.fastest(self._config, built)
