"""One model a key, for very many keys: the numbers of all models in arrays, a row a key, instead of objects.

For the shapes that `slab_for` knows, an `ArrayBank` computes the same numbers as River's model, to the last bit. All
keys share the columns, one for each feature, up to a bound. A key with features beyond the bound gets a table of its
own. So memory grows with the features that keys have met, as with River's dicts, not with keys times features.
"""

import copy
import importlib
import math
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import filterfalse, repeat
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from headrace.state.keyed import row_codec
from headrace.state.keyed.bank import Bank
from headrace.state.keyed.rows import (
    CHUNK_BITS,
    CHUNK_ROWS,
    COUNT,
    FIELDS_BARE,
    FIELDS_SCALED,
    LABEL,
    MEAN,
    VALUES,
    VARIANCE,
    WEIGHT,
    Kernel,
    Plan,
    RowModel,
    RowTable,
    kernel,
)
from headrace.state.models import spec
from headrace.state.models.columns import Answers, Columns
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Answer, Capabilities
from headrace.state.row_packing import RowPacker

if TYPE_CHECKING:
    # It imports numpy, which takes time.
    from headrace.state.keyed.batch import ArrayBatch

_CODEC = "slab-1"
_COLUMNS_MAX = 64
_NEWBORN = 0
"""The slot of a model that has learned nothing. It predicts for every key without a model."""


class _Options(NamedTuple):
    """The options of River's model, in the order of `desk` in `rows.py`."""

    rate: float
    rate_power: float
    intercept_rate: float
    intercept_power: float
    l2: float
    clip: float
    scaled: bool
    logistic: bool
    half: float = 0.5


class ArrayBank(Bank):
    """A bank of linear models, with or without a scaler, in arrays; `slab_for` makes it.

    If features are numbers, it equals River's models to the bit. One difference: at prediction River accepts a value
    that is no number if it has not met the feature. Here every such value raises TypeError, and a number too large for
    a float raises OverflowError, before anything has changed.
    """

    born = b""

    def __init__(self, model: Any, options: _Options, *, kernel: Kernel) -> None:
        river = RiverLearner(copy.deepcopy(model))
        # A record that can't be learned is refused before anything has changed.
        self.can = Capabilities(keys=True, batches=kernel.compiled, undo=True)
        self.task = river.task
        self.codec = _CODEC
        self.spec = river.spec
        self._river = river
        self._template = copy.deepcopy(model)
        self._options = options
        self._numpy = importlib.import_module("numpy")
        # Imported now, and not in the forked process that saves.
        self._many = importlib.import_module("headrace.state.keyed.rows_codec")
        self._logistic = options.logistic
        self._kernel = kernel
        self._dot, self._learn = kernel.dot, kernel.learn
        self._fields = FIELDS_SCALED if options.scaled else FIELDS_BARE
        self._intercept = float(_parts(model)[1].intercept)
        self._slots: dict[bytes, int] = {}
        self._loners: dict[bytes, RowTable] = {}
        self._table = self._new_table(rows=CHUNK_ROWS, columns_max=_COLUMNS_MAX)
        self._table.take(self._intercept)
        self._gather = self._new_gather() if kernel.compiled else None
        self._enlarge_desk(_COLUMNS_MAX)

    def label(self, raw: Any) -> Any:
        """Return the label as River takes it. Raises LabelError."""
        return self._river.label(raw)

    def predict(self, features: dict[str, Any], key: bytes = b"") -> Answer:
        """Predict as River does, and change nothing. Raises TypeError or OverflowError if a value is no number."""
        names = tuple(features)
        slot = self._slots.get(key, _NEWBORN)
        table = self._table
        if slot == _NEWBORN and key in self._loners:
            table = self._loners[key]
        offsets, pack, _, _ = table.plans.get(names) or self._plan(table, names)
        try:
            pack(self._paper, LABEL * 8, 0.0, *features.values())
        except struct.error:
            raise _refusal(features) from None
        _, flat, width = table.chunks[slot >> CHUNK_BITS]
        raw = self._dot(flat, (slot & (CHUNK_ROWS - 1)) * width, width, offsets, self._desk)
        if not self._logistic:
            return raw, None
        # As River's sigmoid, exactly 0 or 1 at both ends. If both classes are equally likely, River takes False.
        true = 0 if raw < -30.0 else 1 if raw > 30.0 else 1.0 / (1.0 + math.exp(-raw))  # noqa: PLR2004
        false = 1.0 - true
        return true > false, {False: false, True: true}

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:
        """Teach a key's model one record. Raises TypeError or OverflowError, and has then changed nothing."""
        names = tuple(features)
        table = self._table
        slot = self._slots.get(key, _NEWBORN)
        offsets, pack, reach, _ = table.plans.get(names) or self._plan(table, names)
        try:
            pack(self._paper, LABEL * 8, label, *features.values())
        except struct.error:
            raise _refusal({**features, "label": label}) from None
        _, flat, width = table.chunks[slot >> CHUNK_BITS]
        if slot == _NEWBORN or reach > width:
            table, slot = self._settle(key, names)
            offsets = (table.plans.get(names) or self._plan(table, names)).offsets
            _, flat, width = table.chunks[slot >> CHUNK_BITS]
        self._learn(flat, (slot & (CHUNK_ROWS - 1)) * width, offsets, self._desk)

    @property
    def has_proba(self) -> bool:
        """Whether a predicted class comes with probabilities."""
        return self._logistic

    def fault(self, code: int, features: dict[str, Any]) -> Exception:  # noqa: ARG002 there is but one
        """Return the exception for a fault that `learn_batch` has found."""
        return _refusal(features)

    def admit(self, keys: Sequence[bytes], columns: Columns, labels: Any) -> bool:
        """Give the features of these records columns, and tell whether `learn_batch` may learn the records."""
        alone = bool(self._loners) and not self._loners.keys().isdisjoint(keys)
        return self._gather is not None and not alone and self._gather.admit(columns, labels)

    def learn_batch(
        self,
        columns: Columns,
        labels: Any,
        *,
        keys: Sequence[bytes] = (),
        **_others: Any,
    ) -> Answers:
        """Predict each record, then learn it if it has a label. `admit` must have allowed all records."""
        assert self._gather is not None
        return self._gather.run(keys, columns, labels)

    def dump(self, key: bytes = b"") -> bytes:
        """Return one key's model as bytes, which depend only on the records that taught it. Raises KeyError."""
        learned, intercept, names, fields = self._read(key)
        numbers = fields.astype("<f8", copy=False).tobytes()
        return row_codec.write(learned, intercept, names, numbers, scaled=self._options.scaled)

    def dump_all(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the bytes of `dump` for each of these keys. Raises KeyError."""
        dumped = [b""] * len(keys)
        for at, block in self._blocks(keys, self._places(keys)):
            for place, row in zip(at.tolist(), block, strict=True):
                dumped[place] = row.tobytes()
        if not all(dumped):
            raise KeyError(keys[dumped.index(b"")])
        return dumped

    def pack(self, packer: RowPacker, keys: list[bytes], seen_ms: Sequence[int]) -> list[bytes]:
        """Pack the rows of keys, last seen at these times. Return the keys without a model, which have no row."""
        seen = self._numpy.array(seen_ms, dtype="int64")
        slots = self._places(keys)
        lengths = self._numpy.fromiter(map(len, keys), "int64", len(keys))
        for at, block in self._blocks(keys, slots):
            self._many.pack(packer, keys, at, lengths=lengths[at], seen_ms=seen[at], models=block)
        missing = [keys[place] for place in self._numpy.flatnonzero(slots == _NEWBORN).tolist()]
        return [key for key in missing if key not in self._loners]

    def load(self, state: bytes, key: bytes = b"") -> None:
        """Give a key the model of these bytes. Raises ModelError, and has then changed nothing."""
        row = row_codec.read(state, scaled=self._options.scaled, fields=self._fields)
        fields = self._numpy.frombuffer(row.fields, "<f8").reshape(-1, self._fields)
        self._write(key, RowModel(row.learned, row.intercept, row.names, fields))

    def drop(self, key: bytes) -> None:
        """Forget a key. Its row is free for another key."""
        slot = self._slots.pop(key, _NEWBORN)
        if slot != _NEWBORN:
            self._table.release(slot)
        self._loners.pop(key, None)

    def to_river(self, key: bytes = b"") -> Any:
        """Return a River model that continues this key's model. Raises KeyError."""
        learned, intercept, names, fields = self._read(key)
        model = copy.deepcopy(self._template)
        scaler, linear = _parts(model)
        # River has no public names for its learned state.
        linear._weights.update(dict(zip(names, fields[:, WEIGHT].tolist(), strict=True)))  # noqa: SLF001
        linear.intercept = intercept
        linear.optimizer.n_iterations = learned
        if scaler is not None:
            # From pairs, a Counter would count the pairs.
            scaler.counts.update(dict(zip(names, map(int, fields[:, COUNT]), strict=True)))
            scaler.means.update(zip(names, fields[:, MEAN].tolist(), strict=True))
            scaler.vars.update(zip(names, fields[:, VARIANCE].tolist(), strict=True))
        return model

    def load_river(self, key: bytes, model: Any) -> None:
        """Give a key the state of a River model. Raises ModelError for another shape or an impossible state."""
        if spec.describe(model) != self.spec:
            raise row_codec.no_model("it is of another shape")
        scaler, linear = _parts(model)
        weights = linear.weights
        # At prediction River adds a mean of 0 for a feature that it has not learned. The counts have only learned ones.
        counts = dict.fromkeys(weights, 1) if scaler is None else dict(scaler.counts)
        if counts.keys() != weights.keys():
            raise row_codec.no_model("its scaler and its weights do not know the same features")
        names = sorted(counts, key=str)
        fields = [
            float(field)
            for name in names
            for field in (
                counts[name],
                weights[name],
                *(() if scaler is None else (scaler.means[name], scaler.vars[name])),
            )
        ]
        state = struct.pack(f"<{len(fields)}d", *fields)
        learned = linear.optimizer.n_iterations
        intercept = float(linear.intercept)
        self.load(row_codec.write(learned, intercept, names, state, scaled=self._options.scaled), key)

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays, without names and keys."""
        return self._table.nbytes + sum(table.nbytes for table in self._loners.values())

    def __contains__(self, key: bytes) -> bool:
        return key in self._slots or key in self._loners

    def strangers(self, keys: Iterable[bytes]) -> Iterator[bytes]:
        """Return the keys that have no row in the shared table: they have no model, or a table of their own."""
        return filterfalse(self._slots.__contains__, keys)

    def __len__(self) -> int:
        return len(self._slots) + len(self._loners)

    def _places(self, keys: Sequence[bytes]) -> Any:
        """Return the slots of keys, int64; `_NEWBORN` for a key without a row."""
        return self._numpy.fromiter(map(self._slots.get, keys, repeat(_NEWBORN)), "int64", len(keys))

    def _blocks(self, keys: Sequence[bytes], slots: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the bytes of keys' models in blocks of one length: positions in `keys` (int64), a row of uint8 each.

        A key without a model is in no block.
        """
        for place, key in enumerate(keys if self._loners else ()):
            if key in self._loners:
                yield self._numpy.array([place]), self._numpy.frombuffer(self.dump(key), "u1").reshape(1, -1)
        places = self._numpy.flatnonzero(slots != _NEWBORN)
        for alike in self._table.read_all(slots[places]):
            for at, block in self._many.blocks(alike, scaled=self._options.scaled):
                yield places[alike.at[at]], block

    def _plan(self, table: RowTable, names: tuple[str, ...]) -> Plan:
        if len(names) > self._room:
            self._enlarge_desk(2 * len(names))
        return table.plan(names)

    def _enlarge_desk(self, room: int) -> None:
        """Make room for this number of values. `_paper` and `_desk` are one memory, for `struct` and for the kernel."""
        self._room = room
        self._paper = bytearray((VALUES + room) * 8)
        desk = self._numpy.frombuffer(self._paper)
        desk[:LABEL] = self._options
        self._desk = desk if self._kernel.compiled else desk.data

    def _settle(self, key: bytes, names: tuple[str, ...]) -> tuple[RowTable, int]:
        """Give a key a row with a column for each of these features: a new row, a wider one, or a table of its own."""
        table = self._loners.get(key)
        slot = self._slots.get(key, _NEWBORN)
        if table is None and self._table.admit(names):
            table = self._table
            if slot == _NEWBORN:
                slot = self._slots[key] = table.take(self._intercept)
        elif table is None:
            table = self._new_table(rows=1, columns_max=sys.maxsize)
            table.take(self._intercept)
            table.admit(names)
            if slot != _NEWBORN:
                self._move(key, table)
            self._loners[key] = table
            slot = 0
        else:
            table.admit(names)
        table.widen(slot, (table.plans.get(names) or table.plan(names)).reach)
        return table, slot

    def _move(self, key: bytes, table: RowTable) -> None:
        model = self._read(key)
        table.admit(tuple(model.names))
        table.widen(0, table.plan(tuple(model.names)).reach)
        table.write(0, model)
        self._table.release(self._slots.pop(key))

    def _new_gather(self) -> "ArrayBatch":
        gather = importlib.import_module("headrace.state.keyed.batch")
        made: ArrayBatch = gather.ArrayBatch(
            self._table,
            self._slots,
            kernel=self._kernel,
            fields=self._fields,
            options=self._options,
        )
        return made

    def _new_table(self, *, rows: int, columns_max: int) -> RowTable:
        return RowTable(fields=self._fields, rows=rows, columns_max=columns_max, compiled=self._kernel.compiled)

    def _read(self, key: bytes) -> RowModel:
        table = self._loners.get(key)
        return self._table.read(self._slots[key]) if table is None else table.read(0)

    def _write(self, key: bytes, model: RowModel) -> None:
        # Drop a table of the key's own: it would keep columns that the new model does not need.
        self._loners.pop(key, None)
        table, slot = self._settle(key, tuple(model.names))
        table.write(slot, model)


def slab_for(model: Any, *, kernel: Callable[[], Kernel] = kernel) -> ArrayBank | None:
    """Return an `ArrayBank` for a River model of a known shape that has learned nothing, else None.

    Known shapes are a linear or logistic regression with plain SGD, alone or behind a StandardScaler, with River's
    default losses and initial weights.
    """
    options = _options_of(model)
    if options is None:
        return None
    scaler, linear = _parts(model)
    if linear.weights or linear.optimizer.n_iterations or linear.intercept != linear.intercept_init:
        return None
    if scaler is not None and (scaler.counts or scaler.means or scaler.vars):
        return None
    return ArrayBank(model, options, kernel=kernel())


def is_known(model: Any) -> bool:
    """Tell whether an `ArrayBank` can hold a River model of this shape."""
    return _options_of(model) is not None


def _parts(model: Any) -> tuple[Any, Any]:
    """Return the scaler, or None, and the linear model."""
    steps = list(model.steps.values()) if hasattr(model, "steps") else [None, model]
    return steps[0], steps[-1]


def _options_of(model: Any) -> _Options | None:
    """Return the options of a model of a known shape, else None. A subclass may do anything, so it is not known."""
    from river import compose, linear_model, optim, preprocessing  # noqa: PLC0415 River's import takes seconds

    if type(model) is compose.Pipeline and len(model.steps) != 2:  # noqa: PLR2004 a scaler and what comes after it
        return None
    scaler, linear = _parts(model) if type(model) is compose.Pipeline else (None, model)
    if type(model) is compose.Pipeline and not (
        type(scaler) is preprocessing.StandardScaler and scaler.with_std is True and scaler.window_size is None
    ):
        return None
    losses: dict[Any, Any] = {
        linear_model.LogisticRegression: optim.losses.Log,
        linear_model.LinearRegression: optim.losses.Squared,
    }
    if type(linear) not in losses or type(linear.loss) is not losses[type(linear)]:
        return None
    if any(weight != 1.0 for weight in vars(linear.loss).values()):
        return None
    zeros = linear.initializer
    if type(linear.optimizer) is not optim.SGD or type(zeros) is not optim.initializers.Zeros or zeros.value != 0.0:
        return None
    rate, intercept_rate = _schedule(linear.optimizer.lr), _schedule(linear.intercept_lr)
    plain = linear.l2, linear.l1, linear.clip_gradient, linear.intercept
    if rate is None or intercept_rate is None or not all(map(_is_number, plain)) or linear.l1 != 0:
        return None
    logistic = type(linear) is linear_model.LogisticRegression
    return _Options(*rate, *intercept_rate, linear.l2, linear.clip_gradient, scaler is not None, logistic)


def _schedule(scheduler: Any) -> tuple[float, float] | None:
    """Return the first rate, and the power of the number of records that divides it."""
    from river.optim import schedulers  # noqa: PLC0415 see _options_of

    pair: tuple[Any, Any]
    if type(scheduler) is schedulers.Constant:
        pair = scheduler.learning_rate, 0.0
    elif type(scheduler) is schedulers.InverseScaling:
        pair = scheduler.learning_rate, scheduler.power
    else:
        return None
    return cast("tuple[float, float]", pair) if all(map(_is_number, pair)) else None


def _is_number(value: Any) -> bool:
    return type(value) in {bool, int, float} and math.isfinite(value)


def _refusal(features: dict[str, Any]) -> Exception:
    """Return the error that names the value which has no float."""
    for name, value in features.items():
        if not isinstance(value, int | float):
            return TypeError(f"{name} is a {type(value).__name__} and no number")
        try:
            float(value)
        except OverflowError as error:
            return OverflowError(f"{name}: {error}")
    return TypeError("the features are no numbers")
