"""One key in memory: when it was last seen, and how its model is put back after harm; and what a save of keys takes."""

import msgspec

from headrace.state.keyed.bank import Bank
from headrace.state.models.undoable_model import UndoStep


class CachedKey(msgspec.Struct, gc=False):
    """One key in memory. For an undo: its model where it was last saved, and what it went through since, if anything.

    There are very many: the collector, which would go through all of them, need not know of any.
    """

    seen_ms: int = -1
    base: bytes = b""
    journal: list[UndoStep] | None = None

    def note(self, step: UndoStep) -> None:
        """Note what the key went through."""
        if self.journal is None:
            self.journal = []
        self.journal.append(step)

    def go_back(self, bank: Bank, key: bytes) -> None:
        """Rebuild the model from where it was saved and what it went through since; begin from there the next time."""
        bank.drop(key)
        if self.base:
            bank.load(self.base, key)
        for step in self.journal or ():
            if step.predicted:
                bank.predict(step.features.copy(), key)
            if step.label is not None:
                bank.learn(step.features.copy(), step.label, key)
        self.base, self.journal = bank.dump(key) if key in bank else b"", None


class KeysSave(msgspec.Struct):
    """What a save takes to the store: the keys whose rows it writes, those among them that are new, those it deletes.

    For an undo after it: the journal that each key had, and how long it was.
    """

    changed: set[bytes] = set()
    fresh: set[bytes] = set()
    swept: set[bytes] = set()
    journals: dict[bytes, tuple[list[UndoStep], int]] = {}
