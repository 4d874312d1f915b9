"""Many models in memory, one for each key: the interface that a keyring needs, and a bank of River's own models.

Models that the compiler knows are kept by `compiled_bank`, in arrays. All others are kept here, as objects.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from headrace.state.keyed.prior import Prior, RiverPrior
from headrace.state.models.columns import Answers, Columns
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Answer, Model
from headrace.state.models.undoable_model import UndoStep
from headrace.state.row_packing import RowPacker

Births = Sequence[tuple[int, bytes]]
"""The keys that get a copy of the prior in a batch, each with the number of records before that; in this order."""


class Bank(Model, Protocol):
    """A model by key that holds every key in memory. Each key's model depends only on its own records, in order.

    `dump` and `load` work on one key's model. If there is a `prior`, `learn` teaches it, too, and a key's model depends
    also on the records before its first one.
    """

    prior: Prior | None

    def dump_all(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the bytes of `dump` for each of these keys. Raises KeyError."""

    def drop(self, key: bytes) -> None:
        """Forget a key, if it is there."""

    def strangers(self, keys: Iterable[bytes]) -> Iterable[bytes]:
        """Return the keys that must be in memory before a batch teaches them."""
        return keys

    def bear(self, key: bytes) -> bytes | None:  # noqa: ARG002 a default
        """Give a key without a model a copy of the prior, or a new model if the key needs one before it learns.

        Returns the bytes from which an undo starts; None if the key still has no model.
        """
        return None

    def learn_keys(self, columns: Columns, labels: Any, keys: Sequence[bytes], births: Births) -> Answers | None:  # noqa: ARG002 a default
        """Predict each record with its key's model, then teach that, and the prior, if it has a label.

        Returns None, with nothing changed, if the records must go one by one.
        """
        return None

    def pack(self, packer: RowPacker, keys: list[bytes], seen_ms: Sequence[int]) -> list[bytes]:  # noqa: ARG002 a default
        """Pack the rows of keys, last seen at these times, many at once; return the keys whose rows are not packed."""
        return keys

    def __contains__(self, key: bytes) -> bool: ...

    def __len__(self) -> int: ...


class RiverBank(Bank):
    """A bank for any River model: one object for each key, a copy of `first`, which has learned nothing."""

    def __init__(self, first: RiverLearner, *, prior: bool = False) -> None:
        self.can = msgspec.structs.replace(first.can, keys=True)
        self.task = first.task
        self.codec = first.codec
        self.spec = first.spec
        self._first = first
        self._born = first.dump()
        self._prior = self.prior = RiverPrior(first) if prior else None
        self._learners: dict[bytes, RiverLearner] = {}

    def label(self, raw: Any) -> Any:
        """Return the label as River takes it. Raises LabelError."""
        return self._first.label(raw)

    def predict(self, features: dict[str, Any], key: bytes = b"", *, label: Any = None) -> Answer:
        """Predict with the key's model, or with a new one if the key has none."""
        return self._learners.get(key, self._first).predict(features, label=label)

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:
        """Teach the prior and the key's model one record with its label. A new key gets a model."""
        if self._prior is not None:
            self._prior.learn(UndoStep(features, label, predicted=False))
        if key not in self._learners:
            self.load(self._born, key)
        learner = self._learners[key]
        # The classes of one key's model must be of one kind. Other keys may have another kind.
        learner.learn(features, learner.label(label))

    def bear(self, key: bytes) -> bytes | None:
        """Give a key without a model a copy of the prior, or a new one; return its bytes."""
        state = (b"" if self._prior is None else self._prior.dump()) or self._born
        self.load(state, key)
        return state

    def dump(self, key: bytes = b"") -> bytes:
        """Return the key's model as bytes. Raises KeyError, ModelError."""
        return self._learners[key].dump()

    def dump_all(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the bytes of `dump` for each of these keys."""
        return [self.dump(key) for key in keys]

    def load(self, state: bytes, key: bytes = b"") -> None:
        """Give a key the model of bytes that `dump` returned. Raises ModelError, and has then changed nothing."""
        learner = copy.copy(self._first)
        learner.load(state)
        self._learners[key] = learner

    def to_river(self, key: bytes = b"") -> Any:
        """Return the key's River model itself. Raises KeyError."""
        return self._learners[key].model

    def drop(self, key: bytes) -> None:
        """Forget a key, if it is there."""
        self._learners.pop(key, None)

    def __contains__(self, key: bytes) -> bool:
        """Tell whether a key has a model."""
        return key in self._learners

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._learners)
