"""The rows of an array bank: their memory, and the arithmetic of River's scaler and linear models on one row.

The source runs compiled if numba is installed, else interpreted, with the same bits: no operation is fused or
reordered, and `pow` and `exp` are the C library's, as in Python. A row is a piece of a flat array of float64: a header
(intercept, number of records learned), then for each column the fields of one feature. `desk` is another flat array,
with the inputs of a call: options, label, then the record's values.
"""

import functools
import importlib
import math
import struct
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from headrace.state.models.columns import NULL, STRING

# A row: its header, then FIELDS_BARE or FIELDS_SCALED numbers a column. A count of 0 says that the key has not met the
# feature. Without a scaler, a count is never above 1.
INTERCEPT, LEARNED, HEADER = 0, 1, 2
COUNT, WEIGHT, MEAN, VARIANCE = 0, 1, 2, 3
FIELDS_BARE, FIELDS_SCALED = 2, 4
# `desk`: a rate is divided by (records learned + 1) ** its power; a power of 0 keeps it constant.
RATE, RATE_POWER, INTERCEPT_RATE, INTERCEPT_POWER, L2, CLIP, SCALED, LOGISTIC, HALF, LABEL, VALUES = range(11)
NOWHERE = 1 << 40
"""The offset of a feature without a column."""
CHUNK_BITS = 12
CHUNK_ROWS = 1 << CHUNK_BITS
_PLANNED_MAX = 65_536
"""The most feature names in all plans that are kept; about 100 bytes each."""
_ORDERS_MAX = 1_024


class Kernel(NamedTuple):
    """The functions of this module, compiled or interpreted. `batch` saves nothing when interpreted, so it is None."""

    dot: Callable[..., float]
    learn: Callable[..., None]
    batch: Callable[..., None] | None
    compiled: bool


def dot(state: Any, start: int, width: int, offsets: Any, desk: Any) -> float:
    """Return weights · features + intercept of the row at `start`, `width` numbers wide, and change nothing.

    `offsets` say where in a row the fields of each value are. A feature past the width has not been met.
    """
    scaled = desk[SCALED] != 0.0
    total = 0.0
    for k in range(len(offsets)):
        x = desk[VALUES + k]
        weight = 0.0
        variance = 0.0
        if offsets[k] < width:
            at = start + offsets[k]
            weight = state[at + WEIGHT]
            if scaled:
                variance = state[at + VARIANCE]
                if variance != 0.0:
                    # Not `sqrt`: River raises to the power of 0.5, whose last bit differs once in a thousand times. The
                    # compiler must not see the 0.5 either: it would take a square root.
                    x = (x - state[at + MEAN]) / math.pow(variance, desk[HALF])
        if scaled and variance == 0.0:
            x = 0.0
        # A feature that was not met counts as well: 0 times NaN is NaN.
        total += weight * x
    return float(total + state[start + INTERCEPT])


def learn(state: Any, start: int, offsets: Any, desk: Any) -> None:
    """Teach the row at `start` the values and the label in `desk`, as River's pipeline does: first the scaler.

    Each feature must have its column in the row. The values in `desk` are scaled in place.
    """
    raw = _absorb(state, start, offsets, desk)
    _step(state, start, offsets, desk, _gradient(raw, desk))


def _absorb(state: Any, start: int, offsets: Any, desk: Any) -> float:
    """Teach the scaler, scale the values in place with its new state, and return the model's raw answer to them."""
    scaled = desk[SCALED] != 0.0
    total = 0.0
    for k in range(len(offsets)):
        at = start + offsets[k]
        x = desk[VALUES + k]
        if not scaled:
            state[at + COUNT] = 1.0
        else:
            count = state[at + COUNT] + 1.0
            old = state[at + MEAN]
            mean = old + (x - old) / count
            variance = state[at + VARIANCE]
            variance += ((x - old) * (x - mean) - variance) / count
            state[at + COUNT] = count
            state[at + MEAN] = mean
            state[at + VARIANCE] = variance
            x = (x - mean) / math.pow(variance, desk[HALF]) if variance != 0.0 else 0.0
            desk[VALUES + k] = x
        total += state[at + WEIGHT] * x
    return float(total + state[start + INTERCEPT])


def _gradient(raw: float, desk: Any) -> float:
    """Return the clipped gradient at the raw answer, of the log loss or of the squared error."""
    if desk[LOGISTIC] != 0.0:
        sign = 1.0 if desk[LABEL] != 0.0 else -1.0
        z = raw * sign
        if z > 18.0:  # noqa: PLR2004 River's own bounds
            gradient = math.exp(-z) * -sign
        elif z < -18.0:  # noqa: PLR2004
            gradient = -sign
        else:
            gradient = -sign / (math.exp(z) + 1.0)
    else:
        gradient = 2.0 * (raw - desk[LABEL])
    # Not `min` and `max`: NaN must pass through as in Python's.
    gradient = desk[CLIP] if desk[CLIP] < gradient else gradient  # noqa: FURB136
    return float(-desk[CLIP] if -desk[CLIP] > gradient else gradient)  # noqa: FURB136


def _step(state: Any, start: int, offsets: Any, desk: Any, gradient: float) -> None:
    """Move intercept and weights against the gradient."""
    rate, intercept_rate = desk[RATE], desk[INTERCEPT_RATE]
    learned = state[start + LEARNED] + 1.0
    if desk[RATE_POWER] != 0.0:
        rate /= math.pow(learned, desk[RATE_POWER])
    if desk[INTERCEPT_POWER] != 0.0:
        intercept_rate /= math.pow(learned, desk[INTERCEPT_POWER])
    state[start + LEARNED] = learned
    state[start + INTERCEPT] -= intercept_rate * gradient
    for k in range(len(offsets)):
        at = start + offsets[k] + WEIGHT
        slope = desk[VALUES + k] * gradient
        if desk[L2] != 0.0:
            slope += desk[L2] * state[at]
        state[at] -= rate * slope


def batch(  # noqa: PLR0917 numbers and arrays are what a kernel takes
    rows: Any,
    width: int,
    which: Any,
    starts: Any,
    names: Any,
    kinds: Any,
    values: Any,
    labels: Any,
    places: Any,
    desk: Any,
    offsets: Any,
    fields: int,
    value: Any,
    chosen: Any,
    fault: Any,
    reach: Any,
) -> None:
    """Predict each of n records with the row that `which` names, `width` numbers wide, and learn it if it has a label.

    The records are the columns of `state/models/columns.py`; `places` are the offsets of the names in a row. `value`,
    `chosen` and `fault` are those of `Answers`. A record with a value that is no number leaves no trace. `reach` is the
    width that the learned numbers of each row need, 0 for a row that has learned nothing. `offsets`, and `desk` behind
    its label, have room for one record.
    """
    for i in range(len(which)):
        first, size = starts[i], starts[i + 1] - starts[i]
        for k in range(size):
            if kinds[first + k] == STRING or kinds[first + k] == NULL:
                fault[i] = 1
            offsets[k] = places[names[first + k]]
            desk[VALUES + k] = values[first + k]
        if fault[i] != 0:
            continue
        start = which[i] * width
        raw = dot(rows, start, width, offsets[:size], desk)
        value[i] = raw
        if desk[LOGISTIC] != 0.0:
            # As River's sigmoid, exactly 0 or 1 at both ends. If both classes are equally likely, River takes False.
            true = 0.0 if raw < -30.0 else 1.0 if raw > 30.0 else 1.0 / (1.0 + math.exp(-raw))  # noqa: PLR2004
            value[i] = true
            chosen[i] = true > 1.0 - true
        if labels[i] == labels[i]:
            # It is not NaN, so there is a label.
            desk[LABEL] = labels[i]
            learn(rows, start, offsets[:size], desk)
            reach[which[i]] = max(reach[which[i]], HEADER)
            for k in range(size):
                reach[which[i]] = max(reach[which[i]], offsets[k] + fields)


class Plan(NamedTuple):
    """Where a record's features lie: `offsets` in a row that is at least `reach` numbers wide, and `columns`."""

    offsets: Any
    pack: Callable[..., None]
    reach: int
    columns: Any


class RowModel(NamedTuple):
    """One key's model read from its row: `fields` is an array of names by fields; the names are in order."""

    learned: int
    intercept: float
    names: list[str]
    fields: Any


class Alike(NamedTuple):
    """The models of keys that have met the same features: their positions in the request, and their numbers.

    `at` and `learned` are int64, `intercepts` float64. `fields` has a row for each model: the fields of each name, one
    name after the other.
    """

    at: Any
    learned: Any
    intercepts: Any
    names: list[str]
    fields: Any


class RowTable:
    """Rows with the same columns, in chunks that are allocated one by one, each as wide as its rows need."""

    def __init__(self, *, fields: int, rows: int, columns_max: int, compiled: bool) -> None:
        self.columns: dict[str, int] = {}
        self.plans: dict[tuple[str, ...], Plan] = {}
        # A chunk: its array, rows by numbers; the same memory in the form that the kernel takes; its width.
        self.chunks: list[tuple[Any, Any, int]] = []
        self._numpy = importlib.import_module("numpy")
        self._fields = fields
        self._rows = rows
        self._columns_max = columns_max
        self._compiled = compiled
        self._free: list[int] = []
        self._planned = 0
        self._orders: dict[bytes, tuple[list[str], Any]] = {}

    def plan(self, names: tuple[str, ...]) -> Plan:
        """Return where these features lie. A feature without a column lies beyond every row."""
        columns = [self.columns.get(name, NOWHERE) for name in names]
        offsets: Any = [HEADER + column * self._fields for column in columns]
        reach = max(offsets, default=HEADER - self._fields) + self._fields
        if self._compiled:
            offsets = self._numpy.array(offsets, dtype="int64")
        self._planned += len(names)
        # A table of one row keeps one plan: there may be many such tables.
        if self._planned > _PLANNED_MAX or self._rows == 1:
            self.plans.clear()
            self._planned = len(names)
        # The label goes before the values.
        plan = self.plans[names] = Plan(
            offsets, struct.Struct(f"{1 + len(names)}d").pack_into, reach, self._numpy.array(columns, dtype="int64")
        )
        return plan

    def admit(self, names: tuple[str, ...]) -> bool:
        """Give each of these features a column, or none of them if there would be too many.

        Raises TypeError or ValueError if a feature has no valid name.
        """
        new = [name for name in names if name not in self.columns]
        for name in new:
            if not isinstance(name, str):
                raise TypeError(f"the feature name {name!r} is no string")
            # A name that can't be encoded could not be saved: refuse it before it is learned.
            name.encode()
        if len(self.columns) + len(new) > self._columns_max:
            return False
        for name in new:
            self.columns[name] = len(self.columns)
        if new:
            # A kept plan may say that a new feature has no column.
            self.plans.clear()
            self._planned = 0
        return True

    def take(self, intercept: float) -> int:
        """Return the slot of a row that has learned nothing."""
        [slot] = self.take_all(1)
        self._row(slot)[INTERCEPT] = intercept
        return slot

    def take_all(self, count: int) -> list[int]:
        """Return the slots of this number of rows. They hold zeros, and the caller must write them."""
        while len(self._free) < count:
            first = len(self.chunks) * self._rows
            self._keep(len(self.chunks), HEADER)
            self._free[:0] = range(first + self._rows - 1, first - 1, -1)
        at = len(self._free) - count
        slots = self._free[at:][::-1]
        del self._free[at:]
        return slots

    def release(self, slot: int) -> None:
        """Clear a row, and make it free for another key."""
        self._row(slot)[:] = 0.0
        self._free.append(slot)

    def widen(self, slot: int, reach: int) -> None:
        """Make a row at least `reach` numbers wide, and with it all rows of its chunk."""
        chunk = slot >> CHUNK_BITS
        if reach > self.chunks[chunk][2]:
            self._keep(chunk, reach)

    def read(self, slot: int) -> RowModel:
        """Read a model from its row."""
        row = self._row(slot)
        fields = row[HEADER:].reshape(-1, self._fields)
        names, columns = self._order((fields[:, COUNT] != 0.0).tobytes())
        return RowModel(int(row[LEARNED]), float(row[INTERCEPT]), names, fields[columns])

    def read_all(self, slots: Any) -> Iterator[Alike]:
        """Read many models from their rows, as `read` does one."""
        for chunk, at in self._by_chunk(slots):
            rows = self.chunks[chunk][0][slots[at] & (CHUNK_ROWS - 1)]
            fields = rows[:, HEADER:].reshape(len(at), -1, self._fields)
            met = fields[:, :, COUNT] != 0.0
            # In this order, models with the same features are neighbours.
            order = self._numpy.lexsort(met.T) if (met != met[0]).any() else self._numpy.arange(len(at))
            differ = self._numpy.flatnonzero((met[order[1:]] != met[order[:-1]]).any(axis=1)) + 1
            for alike in self._numpy.split(order, differ):
                names, columns = self._order(met[alike[0]].tobytes())
                learned, own = rows[alike, LEARNED].astype("int64"), fields[alike[:, None], columns]
                yield Alike(at[alike], learned, rows[alike, INTERCEPT], names, own.reshape(len(alike), -1))

    def _order(self, met: bytes) -> tuple[list[str], Any]:
        """Return the features that were met, and their columns; `met` is a byte for each column, 1 or 0.

        They are ordered by name: a model's bytes must not depend on which key met a feature first.
        """
        if met not in self._orders:
            if len(self._orders) >= _ORDERS_MAX or self._rows == 1:
                self._orders.clear()
            names = sorted(name for name, column in self.columns.items() if met[column : column + 1] == b"\1")
            columns = self._numpy.array([self.columns[name] for name in names], dtype="int64")
            self._orders[met] = names, columns
        return self._orders[met]

    def write(self, slot: int, model: RowModel) -> None:
        """Replace the model in a row, which must be wide enough."""
        row = self._row(slot)
        names = tuple(model.names)
        plan = self.plans.get(names) or self.plan(names)
        row[:] = 0.0
        row[LEARNED], row[INTERCEPT] = model.learned, model.intercept
        row[HEADER:].reshape(-1, self._fields)[plan.columns] = model.fields

    def gather(self, slots: Any, width: int) -> Any:
        """Return a copy of these rows, each `width` numbers wide. No row may be wider than that."""
        rows = self._numpy.zeros((len(slots), width))
        for chunk, at in self._by_chunk(slots):
            array, _, wide = self.chunks[chunk]
            rows[at, :wide] = array[slots[at] & (CHUNK_ROWS - 1)]
        return rows

    def scatter(self, slots: Any, rows: Any, reach: Any) -> None:
        """Write copies of rows back. No copy has anything past its `reach`."""
        for chunk, at in self._by_chunk(slots):
            self.widen(chunk << CHUNK_BITS, int(reach[at].max()))
            array, _, wide = self.chunks[chunk]
            array[slots[at] & (CHUNK_ROWS - 1)] = rows[at, :wide]

    def _by_chunk(self, slots: Any) -> list[tuple[int, Any]]:
        chunks = slots >> CHUNK_BITS
        return [(chunk, self._numpy.flatnonzero(chunks == chunk)) for chunk in self._numpy.unique(chunks).tolist()]

    @property
    def nbytes(self) -> int:
        """The bytes of all chunks."""
        return sum(array.nbytes for array, _, _ in self.chunks)

    def _row(self, slot: int) -> Any:
        return self.chunks[slot >> CHUNK_BITS][0][slot & (CHUNK_ROWS - 1)]

    def _keep(self, chunk: int, width: int) -> None:
        array = self._numpy.zeros((self._rows, width))
        flat = array.reshape(-1)
        kept = array, flat if self._compiled else flat.data, width
        if chunk == len(self.chunks):
            self.chunks.append(kept)
        else:
            old, _, old_width = self.chunks[chunk]
            array[:, :old_width] = old
            self.chunks[chunk] = kept


INTERPRETED = Kernel(dot, learn, None, compiled=False)
_ROW, _DESK = "float64[::1], int64", "int64[::1], float64[::1]"
_COLUMNS = "int64[::1], int32[::1], int8[::1], float64[::1]"
_PLACES, _OUT = "int64[::1], float64[::1], int64[::1], int64", "float64[::1], int8[::1], int8[::1]"
_SIGNATURES: dict[Callable[..., Any], str] = {
    dot: f"float64({_ROW}, int64, {_DESK})",
    _absorb: f"float64({_ROW}, {_DESK})",
    _gradient: "float64(float64, float64[::1])",
    _step: f"void({_ROW}, {_DESK}, float64)",
    # It calls the three functions above.
    learn: f"void({_ROW}, {_DESK})",
    # It calls `learn` and `dot`.
    batch: f"void({_ROW}, int64[::1], {_COLUMNS}, float64[::1], {_PLACES}, {_OUT}, int64[::1])",
}


@functools.cache
def kernel() -> Kernel:
    """Return the functions compiled if numba can be imported, else interpreted.

    Compiling takes seconds; loading the result of another process takes a fraction of that. A process that is forked
    afterwards has the functions at no cost.
    """
    try:
        numba = importlib.import_module("numba")
    except ImportError:
        return INTERPRETED
    try:
        done = _compile(numba, keep=True)
    except (RuntimeError, OSError):
        # The cache has no folder, as in a read-only container: each start compiles.
        done = _compile(numba, keep=False)
    return Kernel(done["dot"], done["learn"], done["batch"], compiled=True)


def _compile(numba: Any, *, keep: bool) -> dict[str, Callable[..., Any]]:
    done: dict[str, Callable[..., Any]] = {}
    for function, signature in _SIGNATURES.items():
        name = function.__name__
        # Compiled functions can call only compiled functions, so the globals get those.
        again = types.FunctionType(function.__code__, {**globals(), **done}, name)
        # Like numpy, leave out the test for a division by zero: no divisor here is zero.
        done[name] = numba.njit(signature, cache=keep, error_model="numpy")(again)
    return done
