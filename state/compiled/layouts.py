"""The layout of a model: the classes, features and categories that its numbers belong to.

Models that have learned about the same classes, features and categories share a layout, whatever their numbers are.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from headrace.state.compiled.model_arrays import ModelArrays, order
from headrace.state.compiled.program import GROWN_HEAD, FeatureName, Grown, Memo, ProgramPart


class PartLayout(NamedTuple):
    """The layout of one part: the features that it has met, its categories with their features, what it has grown."""

    met: tuple[FeatureName, ...]
    learned: tuple[tuple[FeatureName, Any], ...]
    grown: Grown | None = None


class ModelLayout(NamedTuple):
    """The layout of a whole model, its features in the order of their names."""

    classes: tuple[Any, ...]
    parts: tuple[PartLayout, ...]


class PlacedLayout(NamedTuple):
    """A layout in the slots and pairs of one `ModelArrays`: its shape, and the saved order of a stored model's numbers.

    `order` is None if the stored and the saved order are the same.
    """

    layout: ModelLayout
    shape: Any
    order: Any
    size: int

    def saved(self, numbers: Any) -> Any:
        """Return the numbers of a stored model, or of many, in the saved order."""
        return numbers if self.order is None else numbers[..., self.order]

    def at_rest(self, numbers: Any) -> Any:
        """Return numbers that are in the saved order in the order of a stored model."""
        if self.order is None:
            return numbers
        moved = np.empty_like(numbers)
        moved[self.order] = numbers
        return moved


def width_of(part: ProgramPart, classes: int) -> int:
    """Return how many numbers are saved of each feature. A flag is not saved: it is always 1."""
    return len(part.limits) - is_flagged(part) + len(part.cells) * classes


def is_flagged(part: ProgramPart) -> bool:
    """Tell whether the first column of a part only says that a feature was met."""
    return part.limits[:1] == ("flag",)


def lengths(part: ProgramPart, classes: int, grown: Grown | None = None) -> int:
    """Return the number of numbers of a part that belong to no feature: scalars, tallies, and what it has grown."""
    return len(part.scalars) + len(part.tallies) * classes + (0 if grown is None else grown.numbers)


def placed(shape: Any, arrays: ModelArrays) -> PlacedLayout:
    """Return the layout that a shape encodes."""
    words: list[int] = shape.tolist()
    at = 0

    def listed() -> list[int]:
        nonlocal at
        count = words[at]
        at += 1 + count
        return words[at - count : at]

    classes = tuple(arrays.classes[number] for number in listed())
    parts, places, size, moves = [], [], 0, False
    for part in arrays.program.parts:
        met: list[FeatureName] = [arrays.names[slot] for slot in listed()] if part.limits else []
        pairs = [arrays.pairs[number] for number in listed()] if part.listed else []
        ranks = sorted(range(len(met)), key=lambda rank, met=met: order(met[rank]))  # type: ignore[misc]
        moves = moves or ranks != list(range(len(met)))
        width = width_of(part, len(classes))
        places.append((np.array(ranks, np.int64)[:, None] * width + np.arange(width) + size).ravel())
        size += len(met) * width
        grown = None if part.grows is None else _grown(words[at:], arrays)
        rest = lengths(part, len(classes), grown)
        places.append(np.arange(size, size + rest))
        size += rest
        learned = tuple((arrays.names[slot], value) for _, slot, value in pairs)
        parts.append(PartLayout(tuple(met[rank] for rank in ranks), learned, grown))
    return PlacedLayout(ModelLayout(classes, tuple(parts)), shape, np.concatenate(places) if moves else None, size)


def place(layout: ModelLayout, arrays: ModelArrays) -> PlacedLayout:
    """Give a layout its slots and pairs in `arrays`. Call `settle` afterwards."""
    words: list[int] = [len(layout.classes), *map(arrays.class_number, layout.classes)]
    for number, (part, own) in enumerate(zip(arrays.program.parts, layout.parts, strict=True)):
        if part.limits:
            words += [len(own.met), *sorted(map(arrays.slot, own.met))]
        if part.listed:
            words += [len(own.learned), *(arrays.pair(number, arrays.slot(name), value) for name, value in own.learned)]
        if own.grown is not None:
            words += _words(own.grown, number, arrays)
    arrays.seat(len(layout.classes) + 1)
    arrays.lengthen(max((len(own.learned) for own in layout.parts), default=0))
    return placed(np.array(words, np.int64), arrays)


def memos(layout: ModelLayout, numbers: Sequence[float], parts: Sequence[ProgramPart]) -> Iterator[Memo]:
    """Yield the memo of each part; `numbers` are in the saved order."""
    classes, at = layout.classes, 0
    for part, own in zip(parts, layout.parts, strict=True):
        width, flag = width_of(part, len(classes)), (1.0,) * is_flagged(part)
        rows = {name: (*flag, *numbers[at + k * width : at + (k + 1) * width]) for k, name in enumerate(own.met)}
        at += width * len(own.met)
        scalars = tuple(numbers[at : at + lengths(part, len(classes))])
        at += len(scalars)
        grown = 0 if own.grown is None else own.grown.numbers
        rest = tuple(numbers[at : at + grown])
        at += grown
        yield Memo(rows, scalars, own.learned, classes if part.has_classes else (), own.grown, rest)


def laid_out(learned: Sequence[Memo], parts: Sequence[ProgramPart]) -> tuple[ModelLayout, list[float]]:
    """Return the layout of memos, and their numbers in the saved order; the last memo has the classes."""
    found, numbers = [], list[float]()
    for memo, part in zip(learned, parts, strict=True):
        met = tuple(sorted(memo.rows, key=order))
        for name in met:
            numbers += memo.rows[name][is_flagged(part) :]
        numbers += memo.scalars
        numbers += memo.numbers
        found.append(PartLayout(met, memo.learned, memo.grown))
    return ModelLayout(learned[-1].classes, tuple(found)), numbers


def _grown(words: Sequence[int], arrays: ModelArrays) -> Grown:
    """Return what a family has grown, from its part of a shape."""
    numbers, nodes, cells, structure, slots, pairs = words[:GROWN_HEAD]
    ends = np.cumsum([GROWN_HEAD, structure, slots, pairs]).tolist()
    return Grown(
        np.array(words[ends[0] : ends[1]], "<i4").tobytes(),
        tuple(arrays.names[slot] for slot in words[ends[1] : ends[2]]),
        tuple(
            (arrays.names[slot], value) for _, slot, value in map(arrays.pairs.__getitem__, words[ends[2] : ends[3]])
        ),
        numbers,
        nodes,
        cells,
    )


def _words(grown: Grown, number: int, arrays: ModelArrays) -> list[int]:
    """Return the part of a shape that describes what a family has grown; it is part `number` of the program."""
    structure = np.frombuffer(grown.structure, "<i4").tolist()
    slots = [arrays.slot(name) for name in grown.names]
    pairs = [arrays.pair(number, arrays.slot(name), value) for name, value in grown.values]
    return [
        *(grown.numbers, grown.nodes, grown.cells, len(structure), len(slots), len(pairs)),
        *structure,
        *slots,
        *pairs,
    ]
