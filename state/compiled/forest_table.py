"""The forests that the half-space trees of a program know: one for each set of names that a model has learned first.

The models of keys share them. A model is not saved with its forest: that follows from the names that it has learned.
"""

from collections.abc import Sequence

import numpy as np

from headrace.state.compiled.model_arrays import ModelArrays, order
from headrace.state.compiled.program import HALF_SPACE, NAMES, FeatureName, Forest, Forests, Program

_FORESTS_MAX = 64
"""With more, all are forgotten, and drawn again when a model needs them."""


class ForestTable:
    """The forests of a program; without half-space trees it stays empty."""

    def __init__(self, program: Program) -> None:
        self._last = program.parts[-1]
        self._known: list[tuple[Sequence[int], Forest]] = []

    def draw(self, arrays: ModelArrays) -> None:
        """Draw the forest of the loaded model, or of the record on which the machine stopped if the model is new."""
        assert self._last.code == HALF_SPACE
        assert self._last.forest is not None
        op = arrays.ops[-1]
        if arrays.scalars[op["scalar"] + NAMES]:
            met = arrays.fields.reshape(-1, op["stride"])[: len(arrays.names), op["base"]]
            slots = np.flatnonzero(met).tolist()
        else:
            slots = arrays.rows.slots[op["source"], : arrays.rows.sizes[op["source"]]].tolist()
        slots.sort(key=lambda slot: order(arrays.names[slot]))
        names: list[FeatureName] = [arrays.names[slot] for slot in slots]
        if len(self._known) >= _FORESTS_MAX:
            self._known.clear()
            arrays.notes.forest = -1
        self._known.append((slots, self._last.forest(names)))
        arrays.own = Forests.of(self._known)
        arrays.settle()
