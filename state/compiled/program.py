"""What the machine runs: a list of operations in numbers, and the memory that they work on.

An operation reads one row, the features of a record as they are at its place in the pipeline, and writes another. A
feature is a slot: a number for its name, the same in all operations. What an operation has learned of a feature lies
in `fields` at slot * stride + base, in the operation's own columns.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from headrace.state.models.columns import BOOLEAN, FLOAT, INTEGER, NULL, STRING

__all__ = ["BOOLEAN", "FLOAT", "INTEGER", "NULL", "STRING"]

COMPENSATES = sys.version_info >= (3, 12)
"""Whether Python's `sum` of floats gives back what it has lost; its sum of numpy's numbers does not."""

# Operations.
STANDARD, CENTER, MINMAX, MAXABS, SELECT, DISCARD, TYPES, IMPUTE, ONEHOT, HASH, RENAME, MERGE, LINEAR = range(13)
PASSIVE = 13
SOFTMAX, GAUSSIAN, COUNTING = 14, 15, 16
# The columns of an operation: what it is, which rows it reads and writes; where its fields (so many) begin, and its
# scalars, options, keys (so many) and lists; whether it learns, and whether what others learn changes what it writes.
CODE, SOURCE, TARGET, STRIDE, BASE, FIELDS, SCALAR, OPTION, KEY, KEYS, LIST, LEARNS, CHANGES, OP_COLUMNS = range(14)

# Verdicts on a record. A positive one is River's: it would raise. A negative one is the machine's: it needs Python.
FINE, WRONG_TYPE, MISSING, OVERFLOW, TOO_LARGE, NO_LOGARITHM, BY_ZERO = range(7)
UNMET = -1

# The fields that scalers keep of a feature; what comes last follows from the others and is not saved.
COUNT, MEAN, VARIANCE, DEVIATION = 0, 1, 2, 3
LOW, HIGH = 1, 2
MOST = 1
# An imputer's options and scalars.
STATISTIC, FILL, FILL_KIND = 0, 1, 2
NUMBER, VALUE, VALUE_KIND = 0, 1, 2
BEHIND = -1
"""In a part's sources: the row that the part before it writes."""
CONSTANT, AVERAGE, MINIMUM, MAXIMUM = range(4)
# An encoder's options, and the kind under which a name alone is looked up.
DROP_ZEROS = 0
NAME_ALONE = 5
LISTED = 0
# The machine's notes: which mark is fresh; how many pairs it asks for; whether learning this record would raise though
# predicting does not; how much is in the journal; why the machine has stopped, and how wide rows must become; how many
# classes have been learned.
MARK, ASKED, LATE, JOURNALED, STOPPED, WIDTH, CLASSES, NOTES = range(8)
ASKED_OP, ASKED_SLOT, ASKED_KIND, ASKED_BITS, ASKED_COLUMNS = range(5)
ASKED_MAX = 64
"""For so many pairs it asks at once, and looks at so many records more for them:"""
LOOK_AHEAD = 256
DONE, NAME_WANTED, PAIR_WANTED, ROOM_WANTED = range(4)
# A linear model's fields, and its scalars; the optimizer's own fields follow, and the penalty of L1 is the last.
MET, WEIGHT, OWN = 0, 1, 2
INTERCEPT, ITERATIONS, PENALTY = range(3)
# A linear model's options: exponents that the compiler must not see, the loss with two numbers of its own, the
# optimizer with four, the schedules of the two rates, and the rest.
HALF, TWO, INVERSE, LOSS, LOSS_A, LOSS_B, OPTIMIZER, OPT_A, OPT_B, OPT_C, OPT_D = range(11)
RATE, RATE_A, RATE_B, INTERCEPT_RATE, INTERCEPT_A, INTERCEPT_B, L1, L2, CLIP, INITIAL, BINARY, OPTIONS = range(11, 23)
STEADY, SCALED_INVERSELY, OPTIMAL = range(3)
LOG, HINGE, FOCAL, SQUARED, ABSOLUTE, QUANTILE, HUBER, INSENSITIVE, POISSON, CAUCHY = range(10)
# In the order in which `gradient` tells them apart.
SGD, MOMENTUM, NESTEROV, ADAGRAD, RMSPROP, ADAM, ADAMAX, AMSGRAD, NADAM, ADADELTA, FTRL = range(11)
# A passive-aggressive model counts in MET the features as they came, and in a scalar after the intercept how many; its
# options are an exponent that the compiler must not see, the mode, what it makes of C, where loss begins, and flags.
KNOWN = 1
PA_TWO, PA_MODE, PA_C, PA_EDGE, PA_INTERCEPT, PA_BINARY, PA_COMPENSATED = range(7)
# The rows of `tally`: in which place a class's number was learned, -1 for not yet; by place, the score of the record at
# hand, and what is saved: how often the class was learned, and what its features sum to; or, of a softmax, how many
# features it has met and how many steps it took.
PLACE, SCORE, LABELLED, SUM = range(4)
WEIGHTS, STEPS = 2, 3
TALLIES = 2
"""So many rows of `tally` are not saved."""
# The cells of a feature and a class: of a softmax its rank among those that the class has met and its weight, of a
# Gaussian how often it was met, its mean, and the sum of squares; of a model that counts, the count.
RANK, FACTOR = 0, 1
TIMES, CENTRE, SQUARES = range(3)
# The field of a feature where it is counted, behind its rank: in the row of rank i, the slot of rank i.
BY_RANK = 1
# The options of these: whether Python's sums compensate; a softmax's penalty and rate, a counting model's kind.
COMPENSATED, DECAY, STEP, STEP_A, STEP_B = range(5)
WAY, ALPHA, THRESHOLD = 1, 2, 3
MULTINOMIAL, BERNOULLI = range(2)
EXACT_MAX = float(1 << 53)
"""Up to here whole numbers are told apart."""


FeatureName = str | int
"""What a feature is called: a string, or the bucket that it was hashed to."""


class ProgramMemory(NamedTuple):
    """What a model has learned, and what its names are, in arrays that grow by doubling.

    `fields` and `scalars` (float64) hold what has been learned. `lists` (int64, two rows an encoder) hold what it has
    met in order: pairs, and the slots that it writes. A pair is a feature with one of its values: `outs` is the slot
    of its name, `signs` its sign, `alikes` the first pair that is equal to it, `learned` whether that one was learned.
    `places` and `marks` tell where a slot stands in the row that is being written; `notes` are the machine's, and
    `asked` the pairs that Python has to name. Where learning may fail late, `journal` (where) and `journaled` (what)
    hold the fields before it, and the two behind them the scalars and sizes. `grid` holds the cells of each feature and
    class, by slot, then place, and `tally` has a column a class.
    """

    fields: Any
    scalars: Any
    lists: Any
    sizes: Any
    outs: Any
    signs: Any
    alikes: Any
    learned: Any
    places: Any
    marks: Any
    notes: Any
    asked: Any
    journal: Any
    journaled: Any
    scalars_before: Any
    sizes_before: Any
    grid: Any
    tally: Any


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


class Pairs(NamedTuple):
    """An open hash table from operation, slot, kind and bits of a value to the pair's number; -1 is an empty place."""

    keys: Any
    bits: Any
    numbers: Any


class Results(NamedTuple):
    """What comes out, an entry a record: see `columns.Answers`."""

    value: Any
    chosen: Any
    proba: Any
    known: Any
    fault: Any


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
    options: tuple[float, ...] = ()
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
    derive: Callable[[Any], None] | None = None
    """Fill in the columns that follow from the saved ones, in an array of features by columns."""


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
