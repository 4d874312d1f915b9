"""One model that can be put back: what a learner knows, and how to undo a record on which it raised."""

from typing import Any, Protocol

import msgspec

from state.learner import Answer, Learner, Task

_JOURNAL_MIN = 5_000
_JOURNAL_MAX = 100_000


class Mind(Protocol):
    """What a shard knows: one model for all of its records, or one for each of their keys.

    `version` is that of the model, where it is another than that of the shard's snapshots.
    """

    task: Task
    codec: str
    spec: str

    @property
    def compiled(self) -> Learner | None:
        """The one learner of all records, where it is compiled and takes many at once."""

    @property
    def version(self) -> int | None:
        """The version of the model; None where it is that of the shard's snapshot."""

    def label(self, raw: Any) -> Any:
        """Return the label as the models take it. Raises LabelError for one that they can't learn."""

    def predict(self, key: bytes | None, features: dict[str, Any]) -> Answer:
        """Answer for features; what the model raises comes through, and must then be undone."""

    def learn(self, key: bytes | None, features: dict[str, Any], label: Any) -> None:
        """Learn one labelled record; what the model raises comes through, and must then be undone."""

    def keep(self, key: bytes | None, features: dict[str, Any], label: Any, *, predicted: bool = True) -> None:
        """Note a record that went well, so that a later one that goes wrong can be undone.

        `label` is None for a record that had none; `predicted` says whether its features were predicted from now.
        """

    def undo(self, key: bytes | None) -> None:
        """Put a key's model back to where it stood after the last record that was kept."""

    def trim(self) -> None:
        """Bound what is kept, between batches."""

    def checkpoint(self) -> bytes:
        """Return what a snapshot holds as the model."""

    def restore(self, model: bytes) -> None:
        """Become what a snapshot held. Raises ModelError when the bytes are no model of this kind."""


class Step(msgspec.Struct, frozen=True):
    """One record that went well."""

    features: dict[str, Any]
    label: Any
    predicted: bool


class Cell:
    """One model for all records, whatever their keys."""

    version = None

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.compiled = learner if learner.atomic else None
        self.task = learner.task
        self.codec = learner.codec
        self.spec = learner.spec
        self.label = learner.label
        self._journal: list[Step] = []
        self._checkpoint = learner.dump()

    def predict(self, key: bytes | None, features: dict[str, Any]) -> Answer:  # noqa: ARG002 the protocol's
        """Answer for features."""
        return self.learner.predict(features)

    def learn(self, key: bytes | None, features: dict[str, Any], label: Any) -> None:  # noqa: ARG002 the protocol's
        """Learn one labelled record."""
        self.learner.learn(features, label)

    def keep(self, key: bytes | None, features: dict[str, Any], label: Any, *, predicted: bool = True) -> None:  # noqa: ARG002
        """Note a record that went well."""
        if self.compiled is None:
            self._journal.append(Step(features, label, predicted))

    def undo(self, key: bytes | None) -> None:  # noqa: ARG002 the protocol's
        """Put the model back to where it stood after the last record that was kept.

        A model has no inverse, so it is rebuilt: the last checkpoint, and what was kept since, again.
        """
        if self.compiled is not None:
            return
        self.learner.load(self._checkpoint)
        for step in self._journal:
            if step.predicted:
                self.learner.predict(step.features)
            if step.label is not None:
                self.learner.learn(step.features, step.label)
        self.checkpoint()

    def trim(self) -> None:
        """Bound the journal: a cheap model is checkpointed often, a big one seldom."""
        if len(self._journal) >= min(max(_JOURNAL_MIN, len(self._checkpoint) // 10), _JOURNAL_MAX):
            self.checkpoint()

    def checkpoint(self) -> bytes:
        """Take the model's bytes, from which the next undo starts; the journal begins anew."""
        self._checkpoint = self.learner.dump()
        self._journal.clear()
        return self._checkpoint

    def restore(self, model: bytes) -> None:
        """Become what a snapshot held. Raises ModelError when the bytes are no model of this kind."""
        self.learner.load(model)
        self._checkpoint = model
        self._journal.clear()
