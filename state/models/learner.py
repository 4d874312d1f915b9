"""Wraps a River model, built by the user's factory, as a model of Headrace."""

import copy
import functools
import gc
import importlib
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headrace.state.models import label as labels
from headrace.state.models import seeds, spec
from headrace.state.models.label import LabelError, class_kind, shown
from headrace.state.models.model import Answer, Capabilities, Model, Task, Unlabelled
from headrace.state.models.river_calls import calls_of, way_of
from headrace.state.models.task import ModelError, learns_unlabelled, remarks, task_of
from headrace.state.models.user_modules import shadowing


class RiverLearner(Model):
    """Any River model that has a task. Raises ModelError for another, and for one that can't be saved.

    `model` has not learned yet: its saved bytes may name the classes that it has now, and those of `trusted` modules.
    `reading` says how the records are read that it learns. A part that draws random numbers without a seed gets one
    from the text `seed`, unless that is empty. A forecast has `horizon` numbers.
    """

    def __init__(
        self,
        model: Any,
        *,
        trusted: frozenset[str] = frozenset(),
        pickles: bool = False,
        reading: spec.Reading | None = None,
        seed: str = "",
        horizon: int = 1,
    ) -> None:
        self.task: Task = task_of(model)
        self.can = Capabilities(unlabelled=learns_unlabelled(model, self.task))
        # The version of the imported River; another one may have been installed since.
        self.codec = f"river-{importlib.import_module('river').__version__}-objects-1"
        # As the user's code builds it, without the seeds that are given below.
        self.spec = spec.describe(model, reading)
        if seed:
            seeds.give(model, seed)
        self.remarks = remarks(model)
        self._objects = _objects_of(model, trusted, pickles=pickles)
        self._class_kind = ""
        # Decided by the factory's model; a loaded one is not inspected.
        self._way = way_of(model, self.task, horizon=horizon)
        is_multiclass = bool(getattr(model, "_multiclass", True))
        self._labels = labels.reader(self.task, is_value=self._way.is_value, is_multiclass=is_multiclass)
        self.adopt(model)

    @property
    def model(self) -> Any:
        """The River model itself."""
        return self._model

    @property
    def judges_labels(self) -> bool:
        """Whether it is an anomaly detector that scores a record by its own label."""
        return self._way.is_value

    @property
    def unread(self) -> list[str]:
        """The user's definitions without a source file that the model uses: a change of them is not noticed."""
        return spec.unread(self.spec)

    def to_river(self, key: bytes = b"") -> Any:  # noqa: ARG002 one model for all keys
        """Return the River model itself."""
        return self._model

    def label(self, raw: Any) -> Any:
        """Return the label for River. Raises LabelError.

        The classes of a model are either all strings, or all numbers and booleans: River's trees sort them, and with
        one label of the other kind every later prediction would fail.
        """
        if type(raw) is Unlabelled:
            return raw
        # The user's code may give numpy's scalars.
        label = self._labels(raw.item() if hasattr(raw, "item") and not getattr(raw, "shape", ()) else raw)
        if self._class_kind and self._class_kind != class_kind(label):
            raise LabelError(f"the label {shown(raw)} is not a {self._class_kind}, as this model's classes are")
        return label

    def know(self, classes: Sequence[Any]) -> None:
        """Allow only labels of the same kind as these classes; either kind if there are none yet."""
        self._class_kind = class_kind(classes[0]) if classes else ""

    def predict(self, features: dict[str, Any], key: bytes = b"", *, label: Any = None) -> Answer:  # noqa: ARG002 one model for all keys
        """Answer with River's prediction, and the probabilities of a classifier that has them.

        Raises FeatureMissing for a record that lacks what the model can't do without.
        """
        try:
            return self._predict(features, label)
        except BaseException as error:
            _raise_panic(error)
            raise

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:  # noqa: ARG002 one model for all keys
        """Learn one record with its label, or the `Unlabelled` of a model that learns without."""
        if not self._class_kind and self.task == "multiclass":
            self._class_kind = class_kind(label)
        try:
            self._learn_one(features, label)
        except BaseException as error:
            _raise_panic(error)
            raise

    def dump(self, key: bytes = b"") -> bytes:  # noqa: ARG002 one model for all keys
        """Return the model as bytes. Raises ModelError when a part of it can't be saved."""
        return self._saved(None) or b""

    def dump_within(self, bytes_max: int) -> bytes | None:
        """Return the model as `dump` does; stop early and return None when it takes more than `bytes_max`."""
        return self._saved(bytes_max)

    def _saved(self, bytes_max: int | None) -> bytes | None:
        from headrace.state.models.codec.graph import CodecError  # noqa: PLC0415 see preload

        try:
            saved: bytes | None = self._objects.dump((self._class_kind, self._model), bytes_max=bytes_max)
        except CodecError as error:
            raise ModelError(f"the model can't be saved: {error}", hint=error.hint) from error
        return saved

    def load(self, state: bytes, key: bytes = b"") -> None:  # noqa: ARG002 one model for all keys
        """Load the bytes of `dump`, without running code from them. Raises ModelError for any others."""
        from headrace.state.models.codec.graph import CodecError  # noqa: PLC0415 see preload

        try:
            kind, model = self._objects.load(state)
        except CodecError as error:
            raise ModelError(f"the model's bytes can't be loaded: {error}", hint=error.hint) from error
        self._class_kind = kind if kind in {"string", "number"} else ""
        self._set_model(model)

    def adopt(self, model: Any) -> None:
        """Replace the model by another of the same shape, which nothing else may use afterwards."""
        _order_sets(model)
        self._set_model(model)

    def _set_model(self, model: Any) -> None:
        self._model = model
        self._predict, self._learn_one = calls_of(model, self._way)


def preload() -> None:
    """Import all of River, mostly scipy, which takes seconds, before other processes are forked."""
    importlib.import_module("river.api")
    importlib.import_module("headrace.state.models.codec.model_codec")


def reseed() -> None:
    """Give a forked process its own random numbers: otherwise numpy repeats those of the parent."""
    importlib.import_module("numpy.random").seed()


def load_factory(reference: str, directory: Path) -> Callable[[], Any]:
    """Find the function of `model.factory` beside the configuration. Raises ModelError with what is missing."""
    wanted = "name a function without parameters that returns a River model"
    return functools.partial(load_function(reference, directory, key="model.factory", name="build", wanted=wanted))


def load_function(reference: str, directory: Path, *, key: str, name: str, wanted: str) -> Callable[..., Any]:
    """Find `module:function` beside the configuration. Raises ModelError with what is missing.

    `key` is the configuration's key that refers to it. `name` is the usual name of such a function, and `wanted` says
    which one to refer to.
    """
    module_name, _, function_name = reference.partition(":")
    hidden = shadowing(directory)
    if hidden:
        raise ModelError(
            f"{directory / hidden} hides a module of the same name that Headrace, Python or a library has",
            hint=f"give {hidden} another name",
        )
    # A worker process belongs to one project, so the project's folder comes first.
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    try:
        function: Any = getattr(importlib.import_module(module_name), function_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # any error, a panic of native code included
        raise ModelError(
            f"{key} = {reference!r} can't be loaded: {type(error).__name__}: {error}",
            hint=_load_hint(error, module_name, function_name or name, directory),
        ) from error
    if not callable(function):
        raise ModelError(f"{key} = {reference!r} is not a function", hint=wanted)
    return function  # type: ignore[no-any-return]


def _load_hint(error: BaseException, module: str, function: str, directory: Path) -> str:
    """Say what to do about a factory that can't be loaded: its module is missing, lacks the function, or fails."""
    file = directory.joinpath(*module.split(".")).with_suffix(".py")
    if module in sys.modules:
        return f"put a function {function}() into {sys.modules[module].__file__ or file}"
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return f"write {file} with a function {function}() in it"
    return f"correct {file}, which fails when it is imported: cd {directory} && python -c 'import {module}'"


def build(
    factory: Callable[[], Any],
    *,
    trusted: frozenset[str] = frozenset(),
    pickles: bool = False,
    reading: spec.Reading | None = None,
    seed: str = "",
    horizon: int = 1,
) -> RiverLearner:
    """Make a new learner, and check that it can be saved and loaded. Raises ModelError.

    `pickles` allows pickle for objects that define themselves how they are saved. `reading` says how the records are
    read that it learns. For `seed` and `horizon` see `RiverLearner`.
    """
    try:
        model = factory()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ModelError(
            f"the model's factory raised {type(error).__name__}: {error}",
            hint="call it by hand: python -c 'import model; model.build()'",
        ) from error
    learner = RiverLearner(model, trusted=trusted, pickles=pickles, reading=reading, seed=seed, horizon=horizon)
    copy.copy(learner).load(learner.dump())
    return learner


def _raise_panic(error: BaseException) -> None:
    """Raise a panic of native code as an ArithmeticError: it is not an Exception, and would end the process."""
    if type(error).__name__ == "PanicException":
        raise ArithmeticError(f"a native part of River panicked: {error}") from error


def _objects_of(model: Any, trusted: frozenset[str], *, pickles: bool) -> Any:
    # These import numpy, a third of a command's start; commands that build no model need neither.
    from headrace.state.models.codec.graph import CodecError  # noqa: PLC0415
    from headrace.state.models.codec.model_codec import ModelCodec  # noqa: PLC0415

    try:
        return ModelCodec(model, modules=trusted, pickles=pickles)
    except CodecError as error:
        raise ModelError(f"the model can't be saved: {error}", hint=error.hint) from error


def _order_sets(model: Any) -> None:
    """Give each set an iteration order that depends only on its members, since saving does not keep the order.

    Otherwise a model that was saved and loaded would sum the same features in another order, and the last bits of its
    predictions would differ.
    """
    seen: set[int] = set()
    stack = [model]
    while stack:
        part = stack.pop()
        if id(part) in seen or isinstance(part, type | types.FunctionType | types.ModuleType):
            continue
        seen.add(id(part))
        if type(part) is set and all(map(_has_text, part)):
            members = sorted(part, key=repr)
            part.clear()
            for member in members:
                part.add(member)
        stack.extend(gc.get_referents(part))


def _has_text(member: Any) -> bool:
    """Tell whether the `repr` of a member depends only on its value, not on its memory address or its class's code."""
    if isinstance(member, tuple | frozenset):
        return all(map(_has_text, member))
    text: Any = type(member).__repr__
    return text is not object.__repr__ and not isinstance(text, types.FunctionType)
