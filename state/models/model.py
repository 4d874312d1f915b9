"""What predicts and learns: one protocol, and the capabilities that a model declares.

The engine and the shards speak to every model by this protocol and ask for no type. A model names the protocol as its
base. The methods of a capability that it lacks then do nothing: they are the ones that are written here. Models wrap
one another (River's in one that can undo, that one in a worker's replica), and each passes on what the inner one can.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from headrace.state.models.columns import Answers, Columns
from headrace.state.row_packing import PackedRows, TableVersion
from headrace.state.seal import RowSeal

Task = Literal["binary", "multiclass", "regression"]
Scope = Literal["partition", "key", "global"]
"""How many models there are: one for each partition, one for each key, or one for all workers."""
Answer = tuple[Any, Mapping[Any, float] | None]
"""A prediction, and the probability of each class where the model gives one."""


class Capabilities(msgspec.Struct, frozen=True):
    """What a model can do beside predicting and learning one record after the other.

    `batches`: it takes many records in one call. `keys`: it keeps a model of its own for every key. `shared`: all
    workers have one model, and mix what each has learned. `undo`: it can take back a record on which it raised.
    `unlabelled`: it learns from records without a label.
    """

    batches: bool = False
    keys: bool = False
    shared: bool = False
    undo: bool = False
    unlabelled: bool = False

    @property
    def scope(self) -> Scope:
        """The value of `model.scope` that asks for such models."""
        if self.keys:
            return "key"
        return "global" if self.shared else "partition"


class Model(Protocol):
    """Predicts and learns.

    `spec` says what the model is built of, `codec` how it is saved. A model is a deterministic function of what it
    learned, in order: no wall clock, no unseeded randomness. `dump` and `load` carry it over a restart to the bit.
    Models by key take the key that is meant; all others ignore it.
    """

    can: Capabilities
    task: Task
    codec: str
    spec: str

    @property
    def version(self) -> int | None:
        """The version of the model; None where it is that of the shard's newest snapshot."""
        return None

    def label(self, raw: Any) -> Any:
        """Return the label as the model takes it. Raises LabelError for one that it can't learn."""

    def predict(self, features: dict[str, Any], key: bytes = b"") -> Answer:
        """Predict for one record. An error of the model's own comes through, and must be undone."""

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:
        """Learn one labelled record. An error of the model's own comes through, and must be undone."""

    def dump(self, key: bytes = b"") -> bytes:
        """Return the whole state as bytes. Raises ModelError for a model that can't be saved, KeyError for no key."""

    def load(self, state: bytes, key: bytes = b"") -> None:
        """Become the model that `dump` gave these bytes for. Raises ModelError for all others, and changes nothing."""

    def to_river(self, key: bytes = b"") -> Any:
        """Return a River model that goes on as this one does, to the bit. Raises KeyError for no key."""

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
        """The records of the last batch whose event time was not believed: their places, and how far ahead in ms."""
        return ()

    def label_number(self, label: Any) -> float:
        """Return the number that stands for a label in the next batch."""
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
    ) -> Answers | None:
        """Predict each record, then learn it if it has a label; return None, with nothing changed, to get them singly.

        `labels` is float64, NaN for none. Models by key get the `keys` of all records that the partition has met, and
        the `times` (int64, ms) of their events, below zero for none, and of the log. `answered` (int64) are the places
        of the records of `columns` among them; None stands for all. With `silent` only the faults are read.
        """
        return None

    def fault(self, code: int, features: dict[str, Any]) -> Exception:
        """Return the exception that goes with a fault in the answers of a batch."""
        return ValueError(f"fault {code} in {len(features)} features")

    # Undo: the capability `undo`.

    def keep(self, features: dict[str, Any], label: Any, key: bytes = b"", *, predicted: bool = True) -> None:
        """Note a record that went well, so that an undo keeps it.

        `label` is None for a record without one; `predicted` says whether its features were predicted from now.
        """
        return

    def undo(self, key: bytes = b"") -> None:
        """Go back to where the model stood after the last record that was kept."""
        return

    def trim(self) -> None:
        """Bound what is held in memory, between batches."""
        return

    # Keys: the capability `keys`.

    def fetch(self, keys: Iterable[bytes]) -> None:
        """Bring the models of keys into memory. Raises StoreAway, StoreFenced, TableDamaged."""
        return

    def meet(self, key: bytes, at_ms: int | None, logged_ms: int) -> int:
        """See a key at the time of an event, None for no time, and of the log. Raises as `fetch` does.

        Returns 0, or by how many ms the event is too far ahead of the stream to be believed.
        """
        return 0

    # Saving. A snapshot holds the bytes of `dump`; what changes row by row has tables of its own in the store.

    @property
    def is_heavy(self) -> bool:
        """Whether the model is known to be so large that writing it down would hold up the stream."""
        return False

    @property
    def is_crowded(self) -> bool:
        """Whether the model holds so much that it should be saved soon: only that makes room for more."""
        return False

    @property
    def is_full(self) -> bool:
        """Whether the model can't take any more records before it is saved."""
        return False

    def dump_within(self, bytes_max: int) -> bytes | None:
        """Return what `dump` does, or give up, soon, and return None: when it takes more than these bytes."""
        return self.dump()

    def dump_if_light(self) -> bytes | None:
        """Return what `dump` does, or None for a model that is found to be heavy."""
        return self.dump()

    def tables(self) -> Mapping[str, int]:
        """Return the number of rows that each of the model's tables has once all is saved."""
        return {}

    def resume(self, stored: TableVersion) -> None:
        """Go on from the rows that the store has at a version."""
        return

    def begin_save(self) -> None:
        """Begin to save the model as it stands; `saved` or `not_saved` follows. Raises as `fetch` does."""
        return

    def packed(self, seal: Callable[[str], RowSeal]) -> tuple[dict[str, PackedRows], dict[bytes, bytes]]:
        """Return the rows of each table that are to be saved, and the models that `saved` needs.

        `seal` gives the seal of a table's rows.
        """
        return {}, {}

    def checkpointed(self, state: bytes) -> None:
        """Note the bytes that `dump` gave elsewhere for the moment at which the save began."""
        return

    def saved(self, models: Mapping[bytes, bytes], version: int) -> None:
        """Note that the store has what was to be saved, as a version; `models` are those of `packed`."""
        return

    def not_saved(self) -> None:
        """Note that the store has not, or only in part, what was to be saved."""
        return
