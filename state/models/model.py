"""One model that can be put back: what a learner knows, and how to undo a record on which it raised."""

from typing import Any, Literal, Protocol, cast

import msgspec

from headrace.state.models.columns import Many
from headrace.state.models.learner import Answer, Learner, RiverLearner, Task

_JOURNAL_MIN = 5_000
_JOURNAL_MAX = 100_000
# What takes so many bytes takes milliseconds to write down.
_HEAVY_BYTES = 200_000
# To let go of so many steps takes a millisecond.
_SPENT = 2_000

Scope = Literal["partition", "key", "global"]
"""How many models there are: one for each partition, one for each key, or one for all workers."""


class Mind(Protocol):
    """What a shard knows: one model for all of its records, or one for each of their keys.

    `scope` says which, `spec` what the models are built of, and `codec` how they are saved. `version` is that of the
    model, where it is another than that of the shard's snapshots.
    """

    scope: Scope
    task: Task
    codec: str
    spec: str

    @property
    def compiled(self) -> Many | None:
        """What takes many records at once, where that is known how."""

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


class UndoStep(msgspec.Struct, frozen=True):
    """One record that went well."""

    features: dict[str, Any]
    label: Any
    predicted: bool


class UndoToken(msgspec.Struct, frozen=True):
    """A moment of a cell: how often it had been written down, and how many steps it had made since."""

    age: int
    steps: int


class UndoableModel:
    """One model for all records, whatever their keys.

    A model `is_heavy` when to write it down here and now would hold up the stream. Whoever has its bytes of a moment
    from elsewhere, a fork, has them taken as the checkpoint by `begin_checkpoint` at that moment and `end_checkpoint`.
    """

    scope: Scope = "partition"
    version = None

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.compiled = cast("Many", learner) if learner.atomic else None
        self.task = learner.task
        self.codec = learner.codec
        self.spec = learner.spec
        self.label = learner.label
        self.is_heavy = False
        self._journal: list[UndoStep] = []
        # Steps that no undo needs any more; they go a few at a time.
        self._spent: list[UndoStep] = []
        self._age = 0
        self._checkpoint = b""
        self._adopt(learner.dump())

    def predict(self, key: bytes | None, features: dict[str, Any]) -> Answer:  # noqa: ARG002 the protocol's
        """Answer for features."""
        return self.learner.predict(features)

    def learn(self, key: bytes | None, features: dict[str, Any], label: Any) -> None:  # noqa: ARG002 the protocol's
        """Learn one labelled record."""
        self.learner.learn(features, label)

    def keep(self, key: bytes | None, features: dict[str, Any], label: Any, *, predicted: bool = True) -> None:  # noqa: ARG002
        """Note a record that went well."""
        if self.compiled is None:
            self._journal.append(UndoStep(features, label, predicted))

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

    @property
    def is_long(self) -> bool:
        """Whether a heavy model should be written down soon, or the journal comes to its bound."""
        return self.is_heavy and len(self._journal) >= _JOURNAL_MAX // 2

    def trim(self) -> None:
        """Bound the journal: a light model is checkpointed often, a heavy one at the last moment only."""
        del self._spent[-_SPENT:]
        if len(self._journal) >= _JOURNAL_MAX:
            self.checkpoint()
        elif len(self._journal) >= max(_JOURNAL_MIN, len(self._checkpoint) // 10):
            self.checkpoint_if_light()

    def checkpoint(self) -> bytes:
        """Take the model's bytes, from which the next undo starts; the journal begins anew."""
        self._adopt(self.learner.dump())
        return self._checkpoint

    def checkpoint_if_light(self) -> bytes | None:
        """Do so where it is soon done; return None for a heavy model, which is found to be one here, too."""
        if self.is_heavy:
            return None
        if not isinstance(self.learner, RiverLearner):
            # Arrays are copied in no time, be they large.
            return self.checkpoint()
        model = self.learner.dump_within(_HEAVY_BYTES)
        if model is None:
            self.is_heavy = True
        else:
            self._adopt(model)
        return model

    def begin_checkpoint(self) -> UndoToken:
        """Say which moment this is, in which the model's bytes are taken elsewhere."""
        return UndoToken(self._age, len(self._journal))

    def end_checkpoint(self, token: UndoToken, model: bytes) -> None:
        """Take the bytes of that moment as the checkpoint, unless there is a newer one by now."""
        if token.age == self._age:
            self._spent += self._journal[: token.steps]
            later = self._journal[token.steps :]
            self._adopt(model)
            self._journal = later

    def restore(self, model: bytes) -> None:
        """Become what a snapshot held. Raises ModelError when the bytes are no model of this kind."""
        self.learner.load(model)
        self._adopt(model)

    def _adopt(self, model: bytes) -> None:
        self._checkpoint = model
        self.is_heavy = len(model) >= _HEAVY_BYTES
        self._journal = []
        self._age += 1
