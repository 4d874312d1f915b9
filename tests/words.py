"""A vocabulary for tests: records as dictionaries, with their labels, to the columns that a compiled learner reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from headrace.state.models.columns import BOOLEAN, FLOAT, INTEGER, NULL, STRING, WIDE, FeatureColumns

_KINDS = {int: INTEGER, float: FLOAT, bool: BOOLEAN, str: STRING, type(None): NULL}


class Words:
    """A vocabulary that grows, and that can begin anew with other numbers."""

    def __init__(self, generation: int = 0) -> None:
        self.generation = generation
        self.names: list[str] = []
        self.words: list[str] = []
        self._numbers: dict[tuple[bool, str], int] = {}

    def turn(self) -> None:
        """Begin a new generation, in which what was first is last."""
        self.generation += 1
        names, words = self.names[::-1], self.words[::-1]
        self.names, self.words, self._numbers = [], [], {}
        for name in names:
            self.name(name)
        for word in words:
            self.word(word)

    def name(self, name: str) -> int:
        return self._number(self.names, (False, name))

    def word(self, word: str) -> int:
        return self._number(self.words, (True, word))

    def columns(self, records: Sequence[tuple[dict[str, Any], Any]]) -> FeatureColumns:
        starts, names, kinds, values = [0], [], [], []
        for features, _ in records:
            for name, value in features.items():
                names.append(self.name(name))
                kinds.append(WIDE if _is_wide(value) else _KINDS[type(value)])
                values.append(self._value(value))
            starts.append(len(names))
        return FeatureColumns(
            np.array(starts, np.int64),
            np.array(names, np.int32),
            np.array(kinds, np.int8),
            np.array(values, float),
            self,
        )

    def _value(self, value: Any) -> float:
        if isinstance(value, str) or _is_wide(value):
            return float(self.word(str(value)))
        return 0.0 if value is None else float(value)

    def _number(self, known: list[str], key: tuple[bool, str]) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(known)
            known.append(key[1])
        return self._numbers[key]


def _is_wide(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > 2**53
