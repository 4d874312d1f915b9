"""The model of all keys (the prior): it learns each record, and a new key begins with a copy of it."""

import copy
from typing import Protocol

from headrace.state.models.learner import RiverLearner
from headrace.state.models.undoable_model import UndoStep


class Prior(Protocol):
    """The model of all keys of a bank, which teaches it.

    A prior that leaves no trace of a record on which it raised need not undo anything, and has the methods as here.
    """

    def dump(self) -> bytes:
        """Return the model as bytes; none if it has learned nothing. Raises ModelError."""

    def load(self, state: bytes) -> None:
        """Load the bytes of `dump`. Raises ModelError, and has then changed nothing."""

    def keep(self, step: UndoStep) -> None:  # noqa: ARG002 a default
        """Note a labelled record without an error, so that an undo keeps it."""
        return

    def undo(self) -> None:
        """Return to the state after the last record that was kept."""
        return

    def saved(self) -> None:
        """Note that the model has been saved: the next undo starts from its present state."""
        return


class RiverPrior(Prior):
    """A River model of all keys, with a journal; it starts as a copy of `first`, which has learned nothing."""

    def __init__(self, first: RiverLearner) -> None:
        self._first = first
        self._learner: RiverLearner | None = None
        self._base = b""
        self._journal: list[UndoStep] = []

    def learn(self, step: UndoStep) -> None:
        """Teach the model one labelled record. It may raise any error of the model."""
        if self._learner is None:
            self._learner = self._loaded(self._first.dump())
        self._learner.learn(step.features.copy(), self._learner.label(step.label))

    def dump(self) -> bytes:
        """Return the model as bytes; none if it has learned nothing. Raises ModelError."""
        return b"" if self._learner is None else self._learner.dump()

    def load(self, state: bytes) -> None:
        """Load the bytes of `dump`. Raises ModelError, and has then changed nothing."""
        self._learner = self._loaded(state)
        self._base, self._journal = state, []

    def keep(self, step: UndoStep) -> None:
        """Note a labelled record without an error, so that an undo keeps it."""
        self._journal.append(step)

    def undo(self) -> None:
        """Rebuild the model from its base and its journal; the result is the new base."""
        self._learner = self._loaded(self._base) if self._base else None
        for step in self._journal:
            self.learn(step)
        self.saved()

    def saved(self) -> None:
        """Note that the model has been saved: the next undo starts from its present state."""
        self._base, self._journal = self.dump(), []

    def _loaded(self, state: bytes) -> RiverLearner:
        learner = copy.copy(self._first)
        learner.load(state)
        return learner
