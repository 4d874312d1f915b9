"""A model that can take back a record on which it raised: a checkpoint, and a journal of what came after it."""

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.state.models.columns import Answers, Columns
from headrace.state.models.model import Answer, Model

_JOURNAL_MIN = 5_000
_JOURNAL_MAX = 100_000
# To write more bytes than these down takes milliseconds.
_HEAVY_BYTES = 200_000
# To free this number of steps takes a millisecond.
_SPENT = 2_000


class UndoStep(msgspec.Struct, frozen=True):
    """One record that went well."""

    features: dict[str, Any]
    label: Any
    predicted: bool


class UndoableModel(Model):
    """One model for all records, whatever their keys.

    The model is heavy when to write it down here and now would hold up the stream. Then a fork writes it down:
    `begin_save` notes the moment, and `checkpointed` brings the bytes of that moment, from which an undo starts.
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
        # Checkpoints so far, and where a save has begun: at which of them, and after how many steps.
        self._age = 0
        self._save_from = 0, 0
        self._checkpoint = b""
        self._adopt(inner.dump())

    def label(self, raw: Any) -> Any:
        """Return the label as the model takes it. Raises LabelError."""
        return self.inner.label(raw)

    def predict(self, features: dict[str, Any], key: bytes = b"") -> Answer:
        """Predict for one record."""
        return self.inner.predict(features, key)

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:
        """Learn one labelled record."""
        self.inner.learn(features, label, key)

    def to_river(self, key: bytes = b"") -> Any:
        """Return a River model that goes on as this one does."""
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
        """Return the number that stands for a label in the next batch."""
        return self.inner.label_number(label)

    def learn_batch(self, columns: Columns, labels: Any, *, silent: bool = False, **keyed: Any) -> Answers | None:
        """Predict and learn many records, as the inner model does."""
        return self.inner.learn_batch(columns, labels, silent=silent, **keyed)

    def fault(self, code: int, features: dict[str, Any]) -> Exception:
        """Return the exception that goes with a fault in the answers of a batch."""
        return self.inner.fault(code, features)

    def keep(self, features: dict[str, Any], label: Any, key: bytes = b"", *, predicted: bool = True) -> None:  # noqa: ARG002 one journal for all keys
        """Note a record that went well."""
        if self._has_journal:
            self._journal.append(UndoStep(features, label, predicted))

    def undo(self, key: bytes = b"") -> None:  # noqa: ARG002 one journal for all keys
        """Put the model back to where it stood after the last record that was kept.

        A model has no inverse, so it is rebuilt: from the last checkpoint, with the records that were kept since.
        """
        if not self._has_journal:
            return
        self.inner.load(self._checkpoint)
        for step in self._journal:
            if step.predicted:
                self.inner.predict(step.features)
            if step.label is not None:
                self.inner.learn(step.features, step.label)
        self.dump()

    @property
    def is_crowded(self) -> bool:
        """Whether a heavy model should be saved soon, because its journal comes to its bound."""
        return self.is_heavy and len(self._journal) >= _JOURNAL_MAX // 2

    def trim(self) -> None:
        """Bound the journal: a light model is checkpointed often, a heavy one at the last moment only."""
        del self._spent[-_SPENT:]
        if len(self._journal) >= _JOURNAL_MAX:
            self.dump()
        elif len(self._journal) >= max(_JOURNAL_MIN, len(self._checkpoint) // 10):
            self.dump_if_light()

    def dump(self, key: bytes = b"") -> bytes:  # noqa: ARG002 one model for all keys
        """Return the model's bytes, and start the next undo from them: the journal begins anew."""
        self._adopt(self.inner.dump())
        return self._checkpoint

    def dump_if_light(self) -> bytes | None:
        """Do so where it is soon done; return None for a heavy model, which may be found to be one here."""
        if self.is_heavy:
            return None
        state = self.inner.dump_within(_HEAVY_BYTES)
        if state is None:
            self.is_heavy = True
        else:
            self._adopt(state)
        return state

    def load(self, state: bytes, key: bytes = b"") -> None:  # noqa: ARG002 one model for all keys
        """Become the model that `dump` gave these bytes for. Raises ModelError for all others."""
        self.inner.load(state)
        self._adopt(state)

    def begin_save(self) -> None:
        """Note the moment at which a fork takes the model's bytes."""
        self._save_from = self._age, len(self._journal)

    def checkpointed(self, state: bytes) -> None:
        """Take the bytes of that moment as the checkpoint, unless there is a newer one by now."""
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
