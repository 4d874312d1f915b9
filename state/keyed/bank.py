"""Many models, one for each key: the protocol, and any River model behind it.

A `slab` keeps those that it knows in arrays; all others are kept here, as objects.
"""

import copy
from collections.abc import Sequence
from typing import Any, Protocol

from headrace.state.models.learner import Answer, RiverLearner, Task


class Bank(Protocol):
    """Many models of one shape, each under its key, each a function of what it alone was taught, in order.

    `atomic` says that a record on which a model raises leaves it as it was, so that there is nothing to undo. `born` is
    the state of a model that has learned nothing, where it must be made before it predicts; else it is empty.
    """

    atomic: bool
    born: bytes
    task: Task
    codec: str
    spec: str

    def label(self, raw: Any) -> Any:
        """Return the label as the models take it. Raises LabelError for one that they can't learn."""

    def predict(self, key: bytes, features: dict[str, Any]) -> Answer:
        """Answer for one record as the key's model does, or as one that is new, and change nothing."""

    def learn(self, key: bytes, features: dict[str, Any], label: Any) -> None:
        """Teach the key's model one labelled record; a key that is new is born."""

    def dump(self, key: bytes) -> bytes:
        """Return the whole state of one key's model as bytes. Raises KeyError."""

    def dump_all(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return what `dump` does for each of these keys."""

    def load(self, key: bytes, state: bytes) -> None:
        """Give a key the model that `dump` gave these bytes for. Raises ModelError, and then changes nothing."""

    def drop(self, key: bytes) -> None:
        """Forget a key, if there is one of that name."""

    def __contains__(self, key: bytes) -> bool: ...

    def __len__(self) -> int: ...


class RiverBank:
    """Any River model, one object for each key, made by copying `first`, which has learned nothing."""

    atomic = False

    def __init__(self, first: RiverLearner) -> None:
        self.task = first.task
        self.codec = first.codec
        self.spec = first.spec
        self._first = first
        self.born = first.dump()
        self._learners: dict[bytes, RiverLearner] = {}

    def label(self, raw: Any) -> Any:
        """Return the label as River takes it. Raises LabelError."""
        return self._first.label(raw)

    def predict(self, key: bytes, features: dict[str, Any]) -> Answer:
        """Answer as the key's model does, or as one that is new."""
        return self._learners.get(key, self._first).predict(features)

    def learn(self, key: bytes, features: dict[str, Any], label: Any) -> None:
        """Teach the key's model one labelled record; a key that is new is born."""
        if key not in self._learners:
            self.load(key, self.born)
        learner = self._learners[key]
        # The classes of one key's model are all of one kind, whatever those of the others are.
        learner.learn(features, learner.label(label))

    def dump(self, key: bytes) -> bytes:
        """Return the key's model as bytes. Raises KeyError, ModelError."""
        return self._learners[key].dump()

    def dump_all(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return what `dump` does for each of these keys."""
        return [self.dump(key) for key in keys]

    def load(self, key: bytes, state: bytes) -> None:
        """Give a key the model that `dump` gave these bytes for. Raises ModelError, and then changes nothing."""
        learner = copy.copy(self._first)
        learner.load(state)
        self._learners[key] = learner

    def drop(self, key: bytes) -> None:
        """Forget a key, if there is one of that name."""
        self._learners.pop(key, None)

    def __contains__(self, key: bytes) -> bool:
        """Tell whether there is a model under a key."""
        return key in self._learners

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._learners)
