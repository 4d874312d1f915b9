"""One key in memory, with its last time and its undo; and the keys of a save."""

import msgspec

from headrace.state.keyed.bank import Bank
from headrace.state.models.undoable_model import UndoStep


class CachedKey(msgspec.Struct, gc=False):
    """One key in memory. For an undo it has the model that was saved last (`base`), and the records since.

    There are very many, so Python's garbage collector does not track them (`gc=False`).
    """

    seen_ms: int = -1
    base: bytes = b""
    journal: list[UndoStep] | None = None

    def note(self, step: UndoStep) -> None:
        """Add a record to the journal."""
        if self.journal is None:
            self.journal = []
        self.journal.append(step)

    def undo(self, bank: Bank, key: bytes) -> None:
        """Rebuild the model from its base and its journal; the result is the new base."""
        bank.drop(key)
        if self.base:
            bank.load(self.base, key)
        for step in self.journal or ():
            if step.predicted:
                bank.predict(step.features.copy(), key, label=step.label)
            if step.label is not None:
                bank.learn(step.features.copy(), step.label, key)
        self.base, self.journal = bank.dump(key) if key in bank else b"", None


class KeysSave(msgspec.Struct):
    """The keys of one save: those whose rows it writes, those of them without a row yet, and those that it deletes.

    `journals` has the journal of each key and its length when the save began, for an undo after the save.
    """

    changed: set[bytes] = set()
    fresh: set[bytes] = set()
    swept: set[bytes] = set()
    journals: dict[bytes, tuple[list[UndoStep], int]] = {}
