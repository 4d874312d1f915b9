"""The protocol of all models, and the capabilities that a model declares.

The engine and the shards use every model through this protocol and never check its type. A model has the protocol as
its base class: the methods of a capability that it lacks then do nothing, as written here. Models wrap one another (a
River model in one that can undo, that one in a worker's replica), and each declares the inner model's capabilities.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from headrace.state.models.columns import Answers, Columns
from headrace.state.row_packing import PackedRows, TableVersion
from headrace.state.seal import RowSeal

Task = Literal[
    "binary",
    "multiclass",
    "regression",
    "multilabel",
    "multitarget",
    "anomaly",
    "clustering",
    "forecasting",
    "recommendation",
]
"""What a model answers. A multi-label model has a class for each of several targets, a multi-target one a number."""
Scope = Literal["partition", "key", "global"]
"""How many models there are: one for each partition, one for each key, or one for all workers."""
Answer = tuple[Any, Mapping[Any, float] | None]
"""A prediction, and the probability of each class where the model gives one.

The prediction is an `Anomaly` for the task "anomaly", a list of numbers for "forecasting", and an object by target for
several targets, whose probabilities are by target, too. It is None where the model can't say yet.
"""


class Anomaly(NamedTuple):
    """The answer of an anomaly detector: a filter's `verdict` (True: an anomaly), and the `score`; each may be None."""

    verdict: bool | None
    score: float | None


class Unlabelled(NamedTuple):
    """Stands for the label of a record that is learned without one. `at_ms` is the time of the record."""

    at_ms: int


class Capabilities(msgspec.Struct, frozen=True):
    """What a model can do besides predicting and learning one record after the other.

    `batches`: it learns many records in one call. `keys`: it keeps a model for every key. `shared`: all workers share
    one model, and mix their copies. `undo`: it can undo a record on which it raised. `unlabelled`: it learns each
    record without its label (`Unlabelled`), which only scores the answer.
    """

    batches: bool = False
    keys: bool = False
    shared: bool = False
    undo: bool = False
    unlabelled: bool = False

    @property
    def scope(self) -> Scope:
        """The value of `model.scope` for such models."""
        if self.keys:
            return "key"
        return "global" if self.shared else "partition"


class Model(Protocol):
    """Predicts and learns.

    `spec` describes how the model is built, `codec` how it is saved. A model depends only on the records that it
    learned, in order: no wall clock, no unseeded randomness. After `dump` and `load` it is exactly the same model.
    Models by key use the `key`; all others ignore it.
    """

    can: Capabilities
    task: Task
    codec: str
    spec: str

    @property
    def version(self) -> int | None:
        """The version of the model; None if it is that of the shard's newest snapshot."""
        return None

    def label(self, raw: Any) -> Any:
        """Return the label in the model's own form. Raises LabelError for one that it can't learn."""

    def predict(self, features: dict[str, Any], key: bytes = b"", *, label: Any = None) -> Answer:
        """Predict for one record. It may raise any error of the model; the caller then calls `undo`.

        `label` is the record's own, if it has one: some anomaly detectors judge it. It may change the model.
        """

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:
        """Learn one record with its label. It may raise any error of the model; the caller then calls `undo`."""

    def dump(self, key: bytes = b"") -> bytes:
        """Return the whole state as bytes. Raises ModelError if it can't be saved, KeyError for an unknown key."""

    def load(self, state: bytes, key: bytes = b"") -> None:
        """Load the bytes of `dump`. Raises ModelError for any others, and then changes nothing."""

    def to_river(self, key: bytes = b"") -> Any:
        """Return a River model that predicts and learns exactly like this one. Raises KeyError for an unknown key."""

    # Batches: the capability `batches`.

    @property
    def has_proba(self) -> bool:
        """Whether a predicted class comes with probabilities."""
        return False

    @property
    def classes(self) -> Sequence[Any]:
        """The classes that a multiclass model has learned, in River's order."""
        return ()

    @property
    def ahead(self) -> Sequence[tuple[int, int]]:
        """The records of the last batch whose event time did not count: their index, and the distance in ms."""
        return ()

    def label_number(self, label: Any) -> float:
        """Return the number of a label for the next batch."""
        return float(label)

    def learn_batch(
        self,
        columns: Columns,
        labels: Any,
        *,
        keys: Sequence[bytes] = (),
        answered: Any = None,
        times: tuple[Any, Any] | None = None,
        silent: bool = False,
        halts: bool = False,
    ) -> Answers | None:
        """Predict each record, then learn it if it has a label; return None, with nothing changed, to get them singly.

        `labels` is float64, NaN for none; if the model learns without labels, any number says that it learns the
        record. Models by key get the `keys` of all records that the partition has met, and
        the `times` (int64, ms) of their events, below zero for none, and of the log. `answered` (int64) are the places
        of the records of `columns` among them; None stands for all. With `silent` only the faults are read.
        With `halts` the model stops at the first record on which it raises: that one and all later ones have a fault.
        """
        return None

    def answer(self, answers: Answers, at: int) -> Answer:
        """Return one of the answers of a batch as `predict` returns it."""
        return float(answers.value[at]), None

    def fault(self, code: int, features: dict[str, Any]) -> Exception:
        """Return the exception for a fault in the answers of a batch."""
        return ValueError(f"fault {code} in {len(features)} features")

    # Undo: the capability `undo`.

    def keep(self, features: dict[str, Any], label: Any, key: bytes = b"", *, predicted: bool = True) -> None:
        """Note a record without an error, so that an undo keeps it.

        `label` is None for a record without one; `predicted` tells whether the model also predicted its features.
        """
        return

    def undo(self, key: bytes = b"") -> None:
        """Return to the state after the last record that was kept."""
        return

    def trim(self) -> None:
        """Free memory, between batches."""
        return

    # Keys: the capability `keys`.

    def fetch(self, keys: Iterable[bytes]) -> None:
        """Bring the models of keys into memory. Raises StoreAway, StoreFenced, TableDamaged."""
        return

    def meet(self, key: bytes, at_ms: int | None, logged_ms: int) -> int:
        """Note the time of a key's record: of the event, None if it has none, and of the log. Raises as `fetch` does.

        Returns 0, or the distance in ms of an event time that is too far ahead to count.
        """
        return 0

    def recall(self, key: bytes) -> None:
        """Do as `meet` does for a record of a key at the present time of the stream."""
        return

    # Saving. A snapshot holds the bytes of `dump`; models by key also have a table of rows in the store.

    @property
    def is_heavy(self) -> bool:
        """Whether the model is so large that to encode it would hold up the stream."""
        return False

    @property
    def is_crowded(self) -> bool:
        """Whether the model should be saved soon, since only that frees its memory."""
        return False

    @property
    def is_full(self) -> bool:
        """Whether the model can't take any more records before it is saved."""
        return False

    def dump_within(self, bytes_max: int) -> bytes | None:
        """Return the bytes of `dump`; stop early and return None when they are more than `bytes_max`."""
        return self.dump()

    def dump_if_light(self) -> bytes | None:
        """Return the bytes of `dump`; None for a heavy model."""
        return self.dump()

    def tables(self) -> Mapping[str, int]:
        """Return the number of rows of each table after a save."""
        return {}

    def resume(self, stored: TableVersion) -> None:
        """Continue with the rows that the store has at a version."""
        return

    def begin_save(self) -> None:
        """Begin to save the present state; `saved` or `not_saved` follows. Raises as `fetch` does."""
        return

    def packed(self, seal: Callable[[str], RowSeal]) -> tuple[dict[str, PackedRows], dict[bytes, bytes]]:
        """Return the changed rows of each table, packed, and the models that `saved` needs.

        `seal` returns the seal for a table's rows.
        """
        return {}, {}

    def checkpointed(self, state: bytes) -> None:
        """Note the bytes of the model at the time of `begin_save`; a forked process has made them."""
        return

    def saved(self, models: Mapping[bytes, bytes], version: int) -> None:
        """Note that the save has succeeded, as a version; `models` are those of `packed`."""
        return

    def not_saved(self) -> None:
        """Note that the save has failed, perhaps after some rows."""
        return
