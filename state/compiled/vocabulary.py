"""Names as numbers: a vocabulary for single records, and a model's slots and pairs for the numbers of a vocabulary."""

from collections.abc import Callable
from typing import Any

import numpy as np

from headrace.state.compiled.ops.encoding import enter
from headrace.state.compiled.program import ENTRY, EXACT_MAX, FeatureName
from headrace.state.models.columns import BOOLEAN, FLOAT, INTEGER, NULL, STRING, WIDE, FeatureColumns, Vocabulary

_WORDS_MAX = 65_536
_PAIRS_MIN = 64


class RecordVocabulary:
    """Turns one record into columns, with a vocabulary of its own. If that has grown too large, it starts anew."""

    def __init__(self) -> None:
        self.generation = 0
        self.names: list[str] = []
        self.words: list[str] = []
        self._names: dict[str, int] = {}
        self._words: dict[str, int] = {}

    def columns(self, features: dict[str, Any]) -> FeatureColumns:
        """Return a record as columns. Raises TypeError, ValueError or OverflowError if columns can't hold it."""
        if len(self.names) + len(self.words) > _WORDS_MAX:
            self.generation += 1
            for numbers in (self.names, self.words, self._names, self._words):
                numbers.clear()
        count = len(features)
        names, kinds = np.empty(count, np.int32), np.empty(count, np.int8)
        values = np.empty(count)
        for at, (name, value) in enumerate(features.items()):
            names[at] = self._name(name)
            kinds[at], values[at] = self._value(name, value)
        return FeatureColumns(np.array([0, count]), names, kinds, values, self)

    def _name(self, name: Any) -> int:
        if not isinstance(name, str):
            raise TypeError(f"the feature name {name!r} is no string")
        number = self._names.get(name)
        if number is None:
            # A name that can't be encoded could not be saved: refuse it now.
            name.encode()
            number = self._names[name] = len(self.names)
            self.names.append(name)
        return number

    def _value(self, name: str, value: Any) -> tuple[int, float]:
        match value:
            case bool():
                return BOOLEAN, float(value)
            case int():
                number = float(value)
                return (INTEGER, number) if abs(value) <= EXACT_MAX else (WIDE, self._word(str(value)))
            case float():
                return FLOAT, value
            case None:
                return NULL, 0.0
            case str():
                value.encode()
                return STRING, self._word(value)
        raise TypeError(f"{name} is a {type(value).__name__} and no number")

    def _word(self, text: str) -> float:
        if text not in self._words:
            self._words[text] = len(self.words)
            self.words.append(text)
        return float(self._words[text])


class ModelVocabulary:
    """Maps a vocabulary's numbers to one model: the slot of each name, and the pair of each slot and value."""

    def __init__(self) -> None:
        self._vocabulary: Vocabulary | None = None
        self._generation = -1
        self.slots: Any
        self.pairs: Any
        self._forget()

    def turn(self, vocabulary: Vocabulary) -> None:
        """Use the numbers of this vocabulary in its present generation."""
        if vocabulary is not self._vocabulary or vocabulary.generation != self._generation:
            self._vocabulary, self._generation = vocabulary, vocabulary.generation
            self._forget()
        lacking = len(vocabulary.names) - len(self.slots)
        if lacking > 0:
            self.slots = np.concatenate([self.slots, np.full(max(lacking, len(self.slots)), -1, np.int64)])

    def name(self, names: Any, slot: Callable[[FeatureName], int]) -> None:
        """Give a slot to each of these names that has none."""
        assert self._vocabulary is not None
        wanted, known = np.unique(names), self._vocabulary.names
        # In the order of the names: then stored models mostly are in the saved order already.
        for number in sorted(wanted[self.slots[wanted] < 0].tolist(), key=known.__getitem__):
            self.slots[number] = slot(known[number])

    def enter(self, number: int, slot: int, kind: int, bits: int, pair: int) -> None:
        """Add the number of a pair to the hash table."""
        self._entered.append(((number << 40 | slot) * 8 + kind, bits, pair))
        if 2 * len(self._entered) > len(self.pairs):
            self.pairs = _table(2 * len(self.pairs))
            for entry in self._entered:
                enter(self.pairs, *entry)
        else:
            enter(self.pairs, *self._entered[-1])

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays."""
        return sum(int(array.nbytes) for array in (self.slots, self.pairs))

    def _forget(self) -> None:
        self.slots = np.full(16, -1, np.int64)
        self._entered: list[tuple[int, int, int]] = []
        self.pairs = _table(_PAIRS_MIN)


def _table(places: int) -> Any:
    table = np.zeros(places, ENTRY)
    table["number"] = -1
    return table
