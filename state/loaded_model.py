"""A model that was loaded from the store: it predicts, has no way to learn, and never changes."""

import copy
import os
import threading
from collections.abc import Mapping
from typing import Any

from headrace.state.keyed.keyring import TABLE as KEYS
from headrace.state.model_check import Mismatch, model_mismatch
from headrace.state.models.model import Answer, Model
from headrace.state.snapshot import Snapshot
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


def check_snapshot(snapshot: Snapshot, model: Model) -> None:
    """Raise ModelMismatch for a snapshot that a model can't be loaded from, or whose code has changed since."""
    found = model_mismatch(snapshot, scope=model.can.scope, spec=model.spec, codec=model.codec)
    if found is not None:
        raise ModelMismatch(found)


def find_row(store: Store, key: bytes) -> tuple[int, bytes]:
    """Return the partition that has a row of a key, and the row. Raises ModelMissing, StoreAway, TableDamaged."""
    for partition in store.partitions():
        [row] = store.fetch(partition, KEYS, [key])
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
