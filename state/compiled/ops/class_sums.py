"""Functions that all multiclass models on the machine share: a class's place, and sums as Python computes them."""

import math
from typing import Any

from headrace.state.compiled.ops.jit import inlined


@inlined
def place_of(memory: Any, label: float) -> int:
    """Return the place of the class of this number; a class that was not learned gets the place after the others."""
    number = int(label)
    place = memory.classes[memory.classes[number].alike].place
    if place < 0:
        place = memory.notes[0].classes
        memory.classes[memory.classes[number].alike].place = place
        memory.classes[place].number = number
        memory.notes[0].classes = place + 1
    return int(place)


@inlined
def lost(total: float, x: float) -> float:
    """Return the rounding error of adding x to a sum, after Neumaier (1974), as Python's `sum` computes it."""
    after = total + x
    return (total - after) + x if abs(total) >= abs(x) else (x - after) + total


@inlined
def closed(total: float, rest: float, compensated: float) -> float:
    """Return a sum with its rounding errors added back if Python's `sum` does that: from 3.12 on."""
    return total + rest if compensated != 0.0 and rest != 0.0 and math.isfinite(rest) else total
