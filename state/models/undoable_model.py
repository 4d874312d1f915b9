"""A model that can undo a record on which it raised, with a checkpoint and a journal of the records since."""

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.state.models.columns import Answers, Columns
from headrace.state.models.model import Answer, Model

_JOURNAL_MIN = 5_000
_JOURNAL_MAX = 100_000
# To encode more bytes than this takes milliseconds.
_HEAVY_BYTES = 200_000
# To free this number of steps takes a millisecond.
_SPENT = 2_000


class UndoStep(msgspec.Struct, frozen=True):
    """One record without an error."""

    features: dict[str, Any]
    label: Any
    predicted: bool


class UndoableModel(Model):
    """One model for the records of all keys.

    A model is heavy when to encode it here would hold up the stream. Then a forked process does: `begin_save` notes
    the position in the journal, and `checkpointed` brings the bytes of that time, from which an undo then starts.
    """

    is_heavy = False

    def __init__(self, inner: Model) -> None:
        self.inner = inner
        self.can = msgspec.structs.replace(inner.can, undo=True)
        self.task = inner.task
        self.codec = inner.codec
        self.spec = inner.spec
        # A model that leaves no trace of a record on which it raised needs no journal.
        self._has_journal = not inner.can.undo
        self._journal: list[UndoStep] = []
        # Steps that no undo needs any more; they are freed a few at a time.
        self._spent: list[UndoStep] = []
        # The number of checkpoints so far, and that number and the steps of the journal when a save began.
        self._age = 0
        self._save_from = 0, 0
        self._checkpoint = b""
        self._adopt(inner.dump())

    def label(self, raw: Any) -> Any:
        """Return the label in the model's own form. Raises LabelError."""
        return self.inner.label(raw)

    def predict(self, features: dict[str, Any], key: bytes = b"", *, label: Any = None) -> Answer:
        """Predict for one record."""
        return self.inner.predict(features, key, label=label)

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:
        """Learn one record with its label."""
        self.inner.learn(features, label, key)

    def to_river(self, key: bytes = b"") -> Any:
        """Return a River model that predicts and learns exactly like this one."""
        return self.inner.to_river(key)

    @property
    def has_proba(self) -> bool:
        """Whether a predicted class comes with probabilities."""
        return self.inner.has_proba

    @property
    def classes(self) -> Sequence[Any]:
        """The classes that a multiclass model has learned."""
        return self.inner.classes

    def label_number(self, label: Any) -> float:
        """Return the number of a label for the next batch."""
        return self.inner.label_number(label)

    def learn_batch(
        self, columns: Columns, labels: Any, *, silent: bool = False, halts: bool = False, **keyed: Any
    ) -> Answers | None:
        """Predict and learn many records, as the inner model does."""
        return self.inner.learn_batch(columns, labels, silent=silent, halts=halts, **keyed)

    def answer(self, answers: Answers, at: int) -> Answer:
        """Return one of the answers of a batch as `predict` returns it."""
        return self.inner.answer(answers, at)

    def fault(self, code: int, features: dict[str, Any]) -> Exception:
        """Return the exception for a fault in the answers of a batch."""
        return self.inner.fault(code, features)

    def keep(self, features: dict[str, Any], label: Any, key: bytes = b"", *, predicted: bool = True) -> None:  # noqa: ARG002 one journal for all keys
        """Note a record without an error."""
        if self._has_journal:
            self._journal.append(UndoStep(features, label, predicted))

    def undo(self, key: bytes = b"") -> None:  # noqa: ARG002 one journal for all keys
        """Return to the state after the last record that was kept.

        Learning has no inverse, so the model is rebuilt from the last checkpoint with the records of the journal.
        """
        if not self._has_journal:
            return
        self.inner.load(self._checkpoint)
        for step in self._journal:
            if step.predicted:
                self.inner.predict(step.features, label=step.label)
            if step.label is not None:
                self.inner.learn(step.features, step.label)
        self.dump()

    @property
    def is_crowded(self) -> bool:
        """Whether a heavy model should be saved soon, because its journal is half full."""
        return self.is_heavy and len(self._journal) >= _JOURNAL_MAX // 2

    def trim(self) -> None:
        """Empty the journal by a checkpoint: often for a light model, only at the limit for a heavy one."""
        del self._spent[-_SPENT:]
        if len(self._journal) >= _JOURNAL_MAX:
            self.dump()
        elif len(self._journal) >= max(_JOURNAL_MIN, len(self._checkpoint) // 10):
            self.dump_if_light()

    def dump(self, key: bytes = b"") -> bytes:  # noqa: ARG002 one model for all keys
        """Return the model's bytes, and make them the checkpoint: the journal is empty then."""
        self._adopt(self.inner.dump())
        return self._checkpoint

    def dump_if_light(self) -> bytes | None:
        """Do as `dump`, or return None for a heavy model; this may find out that a model is heavy."""
        if self.is_heavy:
            return None
        state = self.inner.dump_within(_HEAVY_BYTES)
        if state is None:
            self.is_heavy = True
        else:
            self._adopt(state)
        return state

    def load(self, state: bytes, key: bytes = b"") -> None:  # noqa: ARG002 one model for all keys
        """Load the bytes of `dump`. Raises ModelError for any others."""
        self.inner.load(state)
        self._adopt(state)

    def begin_save(self) -> None:
        """Note the position in the journal; a forked process encodes the model of now."""
        self._save_from = self._age, len(self._journal)

    def checkpointed(self, state: bytes) -> None:
        """Make the bytes of that time the checkpoint, unless there is a newer one."""
        age, steps = self._save_from
        if age == self._age:
            self._spent += self._journal[:steps]
            later = self._journal[steps:]
            self._adopt(state)
            self._journal = later

    def _adopt(self, state: bytes) -> None:
        self._checkpoint = state
        self.is_heavy = len(state) >= _HEAVY_BYTES
        self._journal = []
        self._age += 1
