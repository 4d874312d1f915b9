"""The program of the machine: a list of operations as numbers, and the arrays that they read and change.

An operation reads one row, the features of a record at that point of the pipeline, and writes another row. A feature is
a slot: a number for its name, the same in all operations. An operation keeps its numbers of a feature in its own
columns of `fields`, from slot * stride + base on.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from headrace.state.models.columns import BOOLEAN, FLOAT, INTEGER, NULL, STRING, WIDE

__all__ = ["BOOLEAN", "FLOAT", "INTEGER", "NULL", "STRING", "WIDE"]

COMPENSATES = sys.version_info >= (3, 12)
"""Whether Python's `sum` of floats adds its rounding errors back; its sum of numpy's numbers never does."""

# Operations.
STANDARD, CENTER, MINMAX, MAXABS, SELECT, DISCARD, TYPES, IMPUTE, ONEHOT, HASH, RENAME, MERGE, LINEAR = range(13)
PASSIVE = 13
SOFTMAX, GAUSSIAN, COUNTING = 14, 15, 16
TREE = 17

# Faults. Positive: River would raise. Negative: the machine needs Python.
FINE, WRONG_TYPE, MISSING, OVERFLOW, TOO_LARGE, NO_LOGARITHM, BY_ZERO, WRONG_CLASS = range(8)
NOT_RUN = 8
"""The fault of the records behind the first one with a fault, if the machine halts there."""
UNMET = -1
FAMILY_WANTED = -100
"""The family's arrays need help from Python before the record can go on; the machine stops for the same reason."""

# The fields of a feature in a scaler. A StandardScaler computes the last one from the others.
COUNT, MEAN, VARIANCE, DEVIATION = 0, 1, 2, 3
LOW, HIGH = 1, 2
MOST = 1
# An imputer's scalars.
NUMBER, VALUE, VALUE_KIND = 0, 1, 2
CONSTANT, AVERAGE, MINIMUM, MAXIMUM = range(4)
BEHIND = -1
"""In a part's sources: the row that the part before it writes."""
LISTED = 0
"""The field that is 1 if an encoder has the feature in its list of zeros."""
NAME_ALONE = 6
"""The kind under which a name is looked up without a value."""
# Columns of `asked`.
ASKED_OP, ASKED_SLOT, ASKED_KIND, ASKED_BITS, ASKED_COLUMNS = range(5)
ASKED_MAX = 64
"""The most unnamed pairs that are gathered for one return to Python."""
LOOK_AHEAD = 256
"""The most records that are scanned after the first unnamed pair, to gather more."""
# Why the machine stops: a name or pairs need numbers, rows or classes need room, stored models need space, or it halts.
DONE, ALL_DONE, NAME_WANTED, PAIR_WANTED, ROOM_WANTED, SPACE_WANTED, HALTED = range(7)
# A linear model's fields and scalars. The optimizer's fields start at OWN. The L1 penalty paid so far is the last.
MET, WEIGHT, OWN = 0, 1, 2
INTERCEPT, ITERATIONS, PENALTY = range(3)
STEADY, SCALED_INVERSELY, OPTIMAL = range(3)
LOG, HINGE, FOCAL, SQUARED, ABSOLUTE, QUANTILE, HUBER, INSENSITIVE, POISSON, CAUCHY = range(10)
# Keep the order: `optimizers` compares these codes with < and >.
SGD, MOMENTUM, NESTEROV, ADAGRAD, RMSPROP, ADAM, ADAMAX, AMSGRAD, NADAM, ADADELTA, FTRL = range(11)
# In a passive-aggressive model MET holds a feature's rank of arrival, and this scalar the number of features.
KNOWN = 1
# Rows of `tally`, which has a column a class. SCORE is the class's score for the current record, and is not saved.
# Saved are the number of its labels and the sum of its features; a softmax saves its number of features and of steps.
SCORE, LABELLED, SUM = range(3)
WEIGHTS, STEPS = 1, 2
TALLIES = 1
"""The first saved row of `tally`."""
# The cells of a feature and a class. Softmax: the rank in which the class met the feature, and the weight. Gaussian:
# the number of values, their mean, and the sum of squares. A model that counts: the count.
RANK, FACTOR = 0, 1
TIMES, CENTRE, SQUARES = range(3)
BY_RANK = 1
"""In the fields of slot number i: the slot of the feature that was met as number i."""
MULTINOMIAL, BERNOULLI = range(2)
EXACT_MAX = float(1 << 53)
"""Up to here a float holds every whole number."""

_WHOLE = (
    # The code of the operation, and the rows that it reads and writes.
    "code", "source", "target",
    # A feature's fields: their number in all operations, the first of this operation, their number in this operation.
    "stride", "base", "fields",
    # The number of saved fields, and whether the first is a flag: 1 for each feature that was met.
    "saved", "flag",
    # Its first scalar and their number, its first key and their number, its first list and whether it has lists.
    "scalar", "scalars", "key", "keys", "list", "listed",
    # The number of cells of each feature and class, and of tallies of each class.
    "cells", "tallies",
    # Whether it learns, and whether learning in earlier operations changes the row that it reads.
    "learns", "changes",
    # Options of transformers: kinds as a bit set, whether zeros are left out, statistic and kind that fill a null.
    "kinds", "drop_zeros", "statistic", "fill_kind",
    # Options of models: loss, optimizer, schedules, kind of naive Bayes (`way`), mode of a passive-aggressive model.
    "loss", "optimizer", "rate", "intercept_rate", "binary", "way", "mode", "learn_intercept", "correct_bias",
    "compensated",
)  # fmt: skip
_REAL = (
    "fill",
    # The compiler must not see these exponents: it would choose other operations, whose last bits differ.
    "half", "two", "inverse",
    # Parameters of the loss and of the two schedules.
    "loss_a", "loss_b", "rate_a", "rate_b", "intercept_rate_a", "intercept_rate_b",
    "l1", "l2", "clip", "initial",
    # Parameters of the optimizers, by River's names.
    "rho", "eps", "beta_1", "beta_2", "alpha", "beta", "own_l1", "own_l2",
    # A passive-aggressive model's C and the margin of its loss; a Bayes model's smoothing and its threshold for true.
    "c", "edge", "smoothing", "threshold",
)  # fmt: skip
OPERATION = np.dtype([(name, np.int64) for name in _WHOLE] + [(name, np.float64) for name in _REAL])
"""One operation of a program, with all of its options."""
NOTES = np.dtype(
    [
        (name, np.int64)
        for name in (
            # The current mark, the number of pairs asked for, the fault of learning this record if predicting it has
            # none, and the number of changes in the journal.
            "mark", "asked", "late", "journaled",
            # The number of entries that need room.
            "width",
            # Of the loaded model: its number of classes, of features met, and of records learned in this group.
            "classes", "touches", "learned",
            # The current group, whether its model is loaded, and the position in the order of the records.
            "group", "loaded", "at",
            # Whether the machine stops behind the first record with a fault.
            "halts",
            # Where the shape and the numbers of the next model are stored, and where the newest shape is; -1 for none.
            "shapes", "numbers", "newest",
        )
    ]
)  # fmt: skip
"""The machine's counters and positions."""


FeatureName = str | int
"""A feature's name: a string, or the number of the bucket that it was hashed to."""


SLOT = np.dtype([(name, np.int64) for name in ("place", "mark", "touched", "touch", "word")])
"""A feature: its place in the row being written, valid if `mark` is the current one; whether the model has met it.

Its `word` is 0, or one more than the number of the word with the digits of its wide integer in the current record.

`touch` lists the slots of all features that the model has met, from entry 0 on: entry i is not about slot i.
"""
PAIR = np.dtype([("out", np.int64), ("alike", np.int64), ("learned", np.int64), ("sign", np.float64)])
"""A feature with one of its values: the slot of its new name, the first pair that is equal, whether learned, its sign.

`learned` counts only in the first of several equal pairs.
"""
CLASS = np.dtype([(name, np.int64) for name in ("alike", "is_word", "place", "number")])
"""A class by its number: the first class that is equal, whether it is a string, its place in the model, -1 for none.

`place` counts only in the first of several equal classes. `number` is by place: the number of the class there.
"""
LIST = np.dtype([("size", np.int64), ("before", np.int64)])
CHANGE = np.dtype([("field", np.int64), ("value", np.float64)])
ENTRY = np.dtype([("key", np.int64), ("bits", np.int64), ("number", np.int64)])
"""An entry of the open hash table: operation, slot and kind as `key`, a value's bits, a pair's number, -1 if empty."""


class ProgramMemory(NamedTuple):
    """The loaded model, and the meaning of its numbers, in arrays that grow by doubling.

    `fields` and `scalars` (float64) hold the learned numbers. `scalars_kept` holds the scalars before the current
    record, and those of a new model. `lists` (int64, two rows an encoder, lengths in `sizes`) hold in order the pairs
    that an encoder has learned, and the slots that it writes. `slots`, `pairs` and `classes` are records by number.
    `notes` are the machine's, `asked` are the pairs that Python has to name. If learning may fail late, `journal` holds
    the fields before that. `grid` holds the cells by slot, then by the class's place. `tally` has a column a class.
    `own` are the arrays of the model's family; their type chooses the family's functions.
    """

    fields: Any
    scalars: Any
    scalars_kept: Any
    lists: Any
    sizes: Any
    slots: Any
    pairs: Any
    classes: Any
    notes: Any
    asked: Any
    journal: Any
    grid: Any
    tally: Any
    own: Any


class NoArrays(NamedTuple):
    """The arrays of a family that has none of its own; numba needs one entry."""

    nothing: int = 0


GROUP = np.dtype([(name, np.int64) for name in ("model", "into", "last", "stays", "in_place")])
"""The records of one model: the entries of `index` from which it is loaded and into which it is then stored, the end of
its records in the order of all records, and whether it then stays loaded instead.

With `in_place`, a model that keeps its shape is stored over its old numbers, else behind those of all models.
"""
MODEL = np.dtype([(name, np.int64) for name in ("shape", "numbers", "size", "shape_size")])
"""Where a stored model's shape and numbers begin. The sizes are those of a newly stored one: 0 for nothing new."""


class StoredModels(NamedTuple):
    """The stored models of a batch, and the records of each.

    `order` has the records, group by group; `index` says where each model is in `shapes` and `numbers`.
    """

    groups: Any
    order: Any
    index: Any
    shapes: Any
    numbers: Any


class Rows(NamedTuple):
    """The rows of the current record: slots, kinds, values and the values' bits, each by row; the size of each row."""

    slots: Any
    kinds: Any
    values: Any
    bits: Any
    sizes: Any


class ProgramBatch(NamedTuple):
    """The input: the columns of a batch, its labels, and the slot of each name, -1 for a name without a slot.

    A wide integer is a double here; `words` (int64) then has the number of the word with its digits, and -1 for other
    values. Without wide integers it is empty.
    """

    starts: Any
    names: Any
    kinds: Any
    values: Any
    words: Any
    labels: Any
    slots: Any


GROWN_HEAD = 6
"""In a shape, before a structure: how many numbers, nodes, cells, entries of it, features and categories there are."""


class Grown(NamedTuple):
    """The structure of what a family has grown, such as trees; `ops/tree/storage.py` says what its numbers mean.

    `structure` is little-endian int32. `names` are the features that it names, `values` its categories, each with its
    feature. It has `numbers` learned numbers; `nodes` and `cells` say how much memory it takes.
    """

    structure: bytes
    names: tuple[FeatureName, ...]
    values: tuple[tuple[FeatureName, Any], ...]
    numbers: int
    nodes: int
    cells: int


class Memo(NamedTuple):
    """The learned state of one part of a model, independent of any array.

    `rows` holds the saved columns of each feature that it has met, `scalars` its scalars, and `learned` an encoder's
    categories in order, each a feature's name and a value. In a model with `classes`, the cells of each class follow in
    each row, and the tallies of each class follow the scalars. `grown` and `numbers` are what a family has grown.
    """

    rows: Mapping[FeatureName, tuple[float, ...]]
    scalars: tuple[float, ...] = ()
    learned: tuple[tuple[FeatureName, Any], ...] = ()
    classes: tuple[Any, ...] = ()
    grown: Grown | None = None
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramPart:
    """One operation, in terms of the model: `path` leads to River's own object, `sources` are the rows that it reads.

    `columns` is the number of fields of a feature; the first is 0 if the feature was never met. `limits` says what each
    saved field may hold: a "count", a "flag", a number "above" or at zero, "any". `keys` are the features that the
    options name; `flagged` sets their first field to 1 from the start. `listed`: it keeps lists. `learns`: it learns.
    `late`: it may raise after other parts have learned. `cells` (of each feature and class) and `tallies` (of each
    class) use the words of `limits`, and "tally": a count that may be 0.
    """

    code: int
    path: tuple[str, ...]
    sources: tuple[int, ...]
    columns: int = 0
    limits: tuple[str, ...] = ()
    scalars: tuple[float, ...] = ()
    options: Mapping[str, float] = field(default_factory=dict)
    keys: tuple[FeatureName, ...] = ()
    flagged: bool = False
    listed: bool = False
    learns: bool = False
    late: bool = False
    cells: tuple[str, ...] = ()
    tallies: tuple[str, ...] = ()
    word: str | None = None
    """The string that an imputer fills in."""
    name: Callable[[FeatureName, Any], tuple[FeatureName, float]] | None = None
    """Return the new name of a feature and its value, and the sign of its contribution."""
    take: Callable[[Any], Memo] | None = None
    """Read the learned state of River's object. Any exception means that it can't be taken over."""
    give: Callable[[Any, Memo], None] | None = None
    """Write a learned state into River's object."""
    allows: Callable[[tuple[float, ...]], bool] | None = None
    """Tell whether these scalars can have been learned."""
    holds: Callable[[Memo], bool] | None = None
    """Tell whether this state can have been learned as a whole."""
    weigh: Callable[[Any], Any] | None = None
    """Turn an array of scores, records by classes, into probabilities."""
    family: Callable[[], Any] | None = None
    """Make the arrays of the family, a `FamilyArrays`; None for linear models, which have none."""
    grows: Callable[[Grown, Any, int], bool] | None = None
    """Tell whether a structure and numbers (float64) can have been grown with this number of classes; or None."""

    @property
    def has_classes(self) -> bool:
        """Whether it learns classes, in the order in which they come."""
        return bool(self.tallies) or self.grows is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The parts of a model in the order in which they run. The last part is the final estimator.

    Row 0 is the record itself, and part number j writes row j + 1.
    """

    parts: tuple[ProgramPart, ...]

    @property
    def stride(self) -> int:
        """The number of fields of a feature, in all operations together."""
        return max(1, sum(part.columns for part in self.parts))

    @property
    def late(self) -> bool:
        """Whether River may raise after something has been learned, so that it must be undone."""
        return any(part.late for part in self.parts)

    @property
    def fan(self) -> int:
        """The most times that a feature of the record can stand in one row."""
        fans = [1]
        for part in self.parts:
            fans.append(sum(fans[source] for source in part.sources))
        return max(fans)

    def changing(self) -> list[bool]:
        """Tell for each part whether learning can change the row that it reads."""
        rows, parts = [False], []
        for part in self.parts:
            changes = any(rows[source] for source in part.sources)
            parts.append(changes)
            rows.append(changes or part.learns)
        return parts
