"""What the machine runs: a list of operations in numbers, and the memory that they work on.

An operation reads one row, the features of a record as they are at its place in the pipeline, and writes another. A
feature is a slot: a number for its name, the same in all operations. What an operation has learned of a feature lies
in `fields` at slot * stride + base, in the operation's own columns.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from headrace.state.models.columns import BOOLEAN, FLOAT, INTEGER, NULL, STRING

__all__ = ["BOOLEAN", "FLOAT", "INTEGER", "NULL", "STRING"]

COMPENSATES = sys.version_info >= (3, 12)
"""Whether Python's `sum` of floats gives back what it has lost; its sum of numpy's numbers does not."""

# Operations.
STANDARD, CENTER, MINMAX, MAXABS, SELECT, DISCARD, TYPES, IMPUTE, ONEHOT, HASH, RENAME, MERGE, LINEAR = range(13)
PASSIVE = 13
SOFTMAX, GAUSSIAN, COUNTING = 14, 15, 16

# Faults. A positive one is River's: it would raise. A negative one is the machine's: it needs Python.
FINE, WRONG_TYPE, MISSING, OVERFLOW, TOO_LARGE, NO_LOGARITHM, BY_ZERO, WRONG_CLASS = range(8)
UNMET = -1

# The fields that scalers keep of a feature; the last one of a StandardScaler follows from the others.
COUNT, MEAN, VARIANCE, DEVIATION = 0, 1, 2, 3
LOW, HIGH = 1, 2
MOST = 1
# An imputer's scalars.
NUMBER, VALUE, VALUE_KIND = 0, 1, 2
CONSTANT, AVERAGE, MINIMUM, MAXIMUM = range(4)
BEHIND = -1
"""In a part's sources: the row that the part before it writes."""
LISTED = 0
"""The field of a feature that an encoder has in its zeros."""
NAME_ALONE = 5
"""The kind under which a name alone is looked up."""
# Columns of `asked`.
ASKED_OP, ASKED_SLOT, ASKED_KIND, ASKED_BITS, ASKED_COLUMNS = range(5)
ASKED_MAX = 64
"""Unnamed pairs that are gathered for one return to Python,"""
LOOK_AHEAD = 256
"""and the records behind the first of them that are looked at for more."""
# Why the machine stops: a name or pairs need numbers, rows or classes need room, stored models need space.
DONE, ALL_DONE, NAME_WANTED, PAIR_WANTED, ROOM_WANTED, SPACE_WANTED = range(6)
# A linear model's fields, and its scalars; the optimizer's own fields follow, and the penalty of L1 is the last.
MET, WEIGHT, OWN = 0, 1, 2
INTERCEPT, ITERATIONS, PENALTY = range(3)
STEADY, SCALED_INVERSELY, OPTIMAL = range(3)
LOG, HINGE, FOCAL, SQUARED, ABSOLUTE, QUANTILE, HUBER, INSENSITIVE, POISSON, CAUCHY = range(10)
# In the order in which `optimizers` tells them apart.
SGD, MOMENTUM, NESTEROV, ADAGRAD, RMSPROP, ADAM, ADAMAX, AMSGRAD, NADAM, ADADELTA, FTRL = range(11)
# A passive-aggressive model numbers the features in MET as they came, and counts them in a scalar after the intercept.
KNOWN = 1
# The rows of `tally`, by a class's place: its score for the record at hand, and what is saved: how often the class was
# learned, and the sum of its features; or, of a softmax, the number of features it has met and of steps it took.
SCORE, LABELLED, SUM = range(3)
WEIGHTS, STEPS = 1, 2
TALLIES = 1
"""The first row of `tally` that is saved."""
# The cells of a feature and a class: of a softmax its rank among those that the class has met and its weight, of a
# Gaussian how often it was met, its mean, and the sum of squares; of a model that counts, the count.
RANK, FACTOR = 0, 1
TIMES, CENTRE, SQUARES = range(3)
BY_RANK = 1
"""The field of a feature where it is counted, behind its rank: in the row of rank i, the slot of rank i."""
MULTINOMIAL, BERNOULLI = range(2)
EXACT_MAX = float(1 << 53)
"""Up to here whole numbers are told apart."""

_WHOLE = (
    # What the operation is, which rows it reads and writes.
    "code", "source", "target",
    # A feature's fields: how many there are in all operations, where this one's begin, how many it has.
    "stride", "base", "fields",
    # How many of the fields are saved, and whether the first is a flag, which is 1 wherever it was met.
    "saved", "flag",
    # Where its scalars begin and how many it has, where the slots of its keys, and its two lists.
    "scalar", "scalars", "key", "keys", "list", "listed",
    # Numbers of each feature and class, and of each class.
    "cells", "tallies",
    # Whether it learns, and whether what others learn changes what it writes.
    "learns", "changes",
    # Options of the transformers: kinds as a set of bits, whether zeros are left out, what fills a gap.
    "kinds", "drop_zeros", "statistic", "fill_kind",
    # Options of models: which loss, optimizer and schedules, which kind of Bayes, which mode of aggression.
    "loss", "optimizer", "rate", "intercept_rate", "binary", "way", "mode", "learn_intercept", "correct_bias",
    "compensated",
)  # fmt: skip
_REAL = (
    "fill",
    # Exponents that the compiler must not see: it would make other operations of them, which differ in last bits.
    "half", "two", "inverse",
    # Numbers of the loss and of the two schedules.
    "loss_a", "loss_b", "rate_a", "rate_b", "intercept_rate_a", "intercept_rate_b",
    "l1", "l2", "clip", "initial",
    # The optimizers' own numbers, as River calls them.
    "rho", "eps", "beta_1", "beta_2", "alpha", "beta", "own_l1", "own_l2",
    # C of a passive-aggressive model, and where its loss begins; the smoothing of a Bayes model, and where true begins.
    "c", "edge", "smoothing", "threshold",
)  # fmt: skip
OPERATION = np.dtype([(name, np.int64) for name in _WHOLE] + [(name, np.float64) for name in _REAL])
"""One operation of a program, with all of its options."""
NOTES = np.dtype(
    [
        (name, np.int64)
        for name in (
            # The mark that is fresh, the pairs asked for, whether learning this record would raise though predicting
            # does not, and what is in the journal.
            "mark", "asked", "late", "journaled",
            # How much room is wanted.
            "width",
            # Of the model in the memory: its classes, the features that it has met, the records learned of its group.
            "classes", "touches", "learned",
            # The group at hand, whether its model is loaded, and where in the order of the records the machine stands.
            "group", "loaded", "at",
            # Where the next model is stored.
            "shapes", "numbers",
        )
    ]
)  # fmt: skip
"""The machine's notes."""


FeatureName = str | int
"""What a feature is called: a string, or the bucket that it was hashed to."""


SLOT = np.dtype([(name, np.int64) for name in ("place", "mark", "touched", "touch")])
"""A feature: its place in the row that is being written where `mark` is fresh, and whether the model has met it.

The features that the model has met stand in `touch`, one after the other, whatever slots these rows are of.
"""
PAIR = np.dtype([("out", np.int64), ("alike", np.int64), ("learned", np.int64), ("sign", np.float64)])
"""A feature with one of its values: the slot of its name, its sign, and the first pair that is equal to it.

Of that one it says whether it was learned.
"""
CLASS = np.dtype([(name, np.int64) for name in ("alike", "is_word", "place", "number")])
"""A class by its number: the first that is equal to it, whose place in the model it says, -1 for none.

By its place: its number.
"""
LIST = np.dtype([("size", np.int64), ("before", np.int64)])
CHANGE = np.dtype([("field", np.int64), ("value", np.float64)])
ENTRY = np.dtype([("key", np.int64), ("bits", np.int64), ("number", np.int64)])
"""A place of the open hash table from operation, slot, kind and bits of a value to the pair's number; -1 is empty."""


class ProgramMemory(NamedTuple):
    """The model that the machine works on, and what its numbers stand for, in arrays that grow by doubling.

    `fields` and `scalars` (float64) hold what has been learned; `scalars_kept` those before the record at hand, and
    those of a new model. `lists` (int64, two rows an encoder, `sizes` long) hold what it has met in order: pairs, and
    the slots that it writes. `slots`, `pairs` and `classes` are records by number. `notes` are the machine's, `asked`
    the pairs that Python has to name. Where learning may fail late, `journal` holds the fields before it. `grid` holds
    the cells of each feature and class, by slot, then place; `tally` has a column a class.
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


GROUP = np.dtype([("model", np.int64), ("last", np.int64), ("stays", np.int64)])
"""Records of one model: where they end in the order of all, and whether the model stays in the memory behind them."""
MODEL = np.dtype([(name, np.int64) for name in ("shape", "numbers", "size", "shape_size")])
"""Where a model at rest is: its shape, and its numbers. The sizes are of what was stored: 0 for nothing new."""


class StoredModels(NamedTuple):
    """The models of a batch at rest, and which records are theirs.

    `order` are the records, group by group; `index` says where each model is in `shapes` and `numbers`.
    """

    groups: Any
    order: Any
    index: Any
    shapes: Any
    numbers: Any


class Rows(NamedTuple):
    """The rows of the record at hand: slots, kinds, values, and these values' bits, each by row; their sizes."""

    slots: Any
    kinds: Any
    values: Any
    bits: Any
    sizes: Any


class ProgramBatch(NamedTuple):
    """What comes in: the columns of a batch, its labels, and the slot of each name, -1 where it has none yet."""

    starts: Any
    names: Any
    kinds: Any
    values: Any
    labels: Any
    slots: Any


class Memo(NamedTuple):
    """What one part of a model has learned, apart from any array.

    `rows` holds the saved columns of each feature that it has met, `scalars` its scalars, and `learned` the pairs of
    a feature's name and a value that an encoder has learned, in order. Of a model of several `classes`, a row goes on
    with the cells of each, and the scalars with its tallies.
    """

    rows: Mapping[FeatureName, tuple[float, ...]]
    scalars: tuple[float, ...] = ()
    learned: tuple[tuple[FeatureName, Any], ...] = ()
    classes: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramPart:
    """One operation, in the terms of the model: `path` leads to River's own object, `sources` are the rows it reads.

    Of its columns the first says how often a feature was met, 0 for never. The first are saved, as many as `limits`
    has words, which say what each may hold: a "count", a "flag", a number "above" or at zero, "any". `keys` are the
    features that its options name; with `flagged` their first column is set to 1 from the start. With `listed` it
    keeps lists, with `learns` it learns, and with `late` it may raise when others have learned. What a model of several
    classes has of each, `cells` a feature and `tallies`, is said in the same words as `limits` are.
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
    """Name the pair of a feature and its value, and give the sign of what it contributes."""
    take: Callable[[Any], Memo] | None = None
    """Read what River's object has learned. Raises ValueError for what can't be taken on."""
    give: Callable[[Any, Memo], None] | None = None
    """Make River's object one that has learned this."""
    allows: Callable[[tuple[float, ...]], bool] | None = None
    """Tell whether these scalars can have been learned."""
    holds: Callable[[Memo], bool] | None = None
    """Tell whether all of this can have been learned together."""
    weigh: Callable[[Any], Any] | None = None
    """Make probabilities of an array of scores, records by classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The parts of a model in the order in which they run, the last is the model proper.

    Row 0 is the record itself, and part number j writes row j + 1.
    """

    parts: tuple[ProgramPart, ...]

    @property
    def stride(self) -> int:
        """How many fields a feature has, in all operations together."""
        return max(1, sum(part.columns for part in self.parts))

    @property
    def late(self) -> bool:
        """Whether River may raise when something has been learned already, so that it has to be undone."""
        return any(part.late for part in self.parts)

    @property
    def fan(self) -> int:
        """How many times a feature of the record can stand in one row."""
        fans = [1]
        for part in self.parts:
            fans.append(sum(fans[source] for source in part.sources))
        return max(fans)

    def changing(self) -> list[bool]:
        """Tell of each part whether what it reads can change by what was learned."""
        rows, parts = [False], []
        for part in self.parts:
            changes = any(rows[source] for source in part.sources)
            parts.append(changes)
            rows.append(changes or part.learns)
        return parts
