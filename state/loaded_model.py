"""A model that was loaded from the store: it predicts, has no way to learn, and never changes."""

import copy
import os
import threading
from collections.abc import Mapping
from typing import Any

from headrace.state.keyed.keyring import TABLE as KEYS
from headrace.state.model_check import Mismatch, model_mismatch
from headrace.state.models.model import Answer, Model
from headrace.state.shard_model import MODEL, table_name
from headrace.state.snapshot import SavedModel, Snapshot
from headrace.state.store.store import Store

# River writes every parameter into the spec: a part with a seed may draw random numbers when it predicts.
_SEEDED = "seed="


class ModelMissing(Exception):
    """Raised when the store has no such model, or none that is whole."""

    status = 404
    hint = "`headrace model ls` lists what is there"


class ModelMismatch(Exception):
    """Raised when a saved model is not one that the code builds now."""

    status = 409

    def __init__(self, found: Mismatch) -> None:
        super().__init__(found.message)
        self.hint = found.hint


class LoadedModel:
    """A model as it was saved: `version`, and the next offset that it would learn of each partition (`offsets`).

    Any thread may predict. `version` is 0 for a key that the store does not know: it gets the model of a new key.
    """

    def __init__(self, model: Model, *, version: int, offsets: Mapping[int, int], key: bytes = b"") -> None:
        self.task, self.spec = model.task, model.spec
        self.version = version
        self.offsets = dict(offsets)
        self._model = model
        self._key = key
        self._draws = _SEEDED in model.spec
        # Models keep room to work in, and River notes features that it has never met.
        self._lock = threading.Lock()

    def predict(self, features: Mapping[str, Any]) -> Answer:
        """Predict for one record as the stream would at these offsets. Raises whatever the model raises."""
        with self._lock:
            # What the stream drew for its next record is drawn for each of these.
            model = copy.deepcopy(self._model) if self._draws else self._model
            return model.predict(dict(features), self._key)


def saved_model(snapshot: Snapshot, name: str, model: Model) -> SavedModel:
    """Return the model of this name in a snapshot, for `model` to load; an empty name means the one that answers.

    Raises ModelMissing, and ModelMismatch for one that can't be loaded, or whose code has changed since.
    """
    saved = snapshot.models.get(name or snapshot.answers)
    if saved is None:
        raise ModelMissing(
            f"the snapshot of partition {snapshot.partition} holds no model {name!r}; it holds "
            f"{', '.join(snapshot.models)}"
        )
    found = model_mismatch(saved, scope=model.can.scope, spec=model.spec, codec=model.codec)
    if found is not None:
        raise ModelMismatch(found)
    return saved


def keys_table(store: Store, partition: int, name: str = "") -> str:
    """Return the table that has the keys of a model; an empty name means the one that answers. Raises StoreAway."""
    snapshot = None if name else store.load(partition).snapshot
    return table_name(name or (MODEL if snapshot is None else snapshot.answers), KEYS)


def find_row(store: Store, key: bytes, name: str = "") -> tuple[int, bytes]:
    """Return the partition that has a row of a key, and the row, of a model as `keys_table` has it.

    Raises ModelMissing, StoreAway, TableDamaged.
    """
    for partition in store.partitions():
        [row] = store.fetch(partition, keys_table(store, partition, name), [key])
        if row is not None:
            return partition, row
    raise ModelMissing(f"the store holds no model of the key {os.fsdecode(key)!r} yet")


def find_snapshot(store: Store, partition: int, version: int | None = None) -> tuple[Snapshot, int]:
    """Return a snapshot of a partition and its version: the newest that is whole, where none is named.

    Raises ModelMissing, StoreAway, StoreRefused.
    """
    wanted = f"version {version} of partition {partition}" if version else f"model of partition {partition}"
    found = store.load(partition, newest=version or None)
    if found.snapshot is None and not found.faults:
        raise ModelMissing(f"the store holds no {wanted}")
    if found.snapshot is None or (version and found.version != version):
        raise ModelMissing(f"the store's {wanted} can't be read: {'; '.join(found.faults) or 'it is gone'}")
    return found.snapshot, found.version
