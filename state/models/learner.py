"""River's models as models of Headrace: built by the user's factory, checked, and run as River runs them."""

import copy
import functools
import gc
import importlib
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headrace.state.models import spec
from headrace.state.models.model import Answer, Capabilities, Model, Task
from headrace.state.models.user_modules import shadowing


class ModelError(Exception):
    """Raised when the factory gives no model that can learn on a stream, or one that can't be saved."""

    status = 400

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class LabelError(ValueError):
    """Raised when a label is none that a model of this task can learn."""


class RiverLearner(Model):
    """Any River classifier or regressor, run as River runs it. Raises ModelError for one that can't be saved.

    `model` is new: what it is made of is what its saved forms may name, with the modules that are `trusted`.
    """

    can = Capabilities()

    def __init__(self, model: Any, *, trusted: frozenset[str] = frozenset(), pickles: bool = False) -> None:
        self.task: Task = task_of(model)
        # Of the River that is loaded: another may have been installed since.
        self.codec = f"river-{importlib.import_module('river').__version__}-objects-1"
        self.spec = spec.describe(model)
        self._objects = _objects_of(model, trusted, pickles=pickles)
        self._class_kind = ""
        self._labels: Callable[[Any], Any] = {
            "binary": _binary_label,
            "multiclass": _class_label,
            "regression": _number_label,
        }[self.task]
        # The factory's model decides it, and none that was saved: what that is made of is not looked at.
        self._way = _way_of(model, self.task)
        self.adopt(model)

    @property
    def model(self) -> Any:
        """The River model itself."""
        return self._model

    @property
    def unseeded(self) -> bool:
        """Whether some part draws random numbers without a seed, so that no relearning can repeat it."""
        return spec.is_unseeded(self.spec)

    @property
    def unread(self) -> list[str]:
        """The user's definitions that the model rests on and that have no source: a change of them goes unnoticed."""
        return spec.unread(self.spec)

    def to_river(self, key: bytes = b"") -> Any:  # noqa: ARG002 one model for all keys
        """Return the River model itself."""
        return self._model

    def label(self, raw: Any) -> Any:
        """Return the label as River takes it. Raises LabelError.

        The classes of a model are all strings or all not: River's trees sort them, and one label of the other
        kind would make every later prediction fail.
        """
        # A numpy scalar, as a user's own code may give it, is what it stands for.
        label = self._labels(raw.item() if hasattr(raw, "item") and not getattr(raw, "shape", ()) else raw)
        if self._class_kind and self._class_kind != _class_kind(label):
            raise LabelError(f"the label {_shown(raw)} is no {self._class_kind}, as this model's classes are")
        return label

    def know(self, classes: Sequence[Any]) -> None:
        """Let the labels be of the kind of these classes, or of either if there are none yet."""
        self._class_kind = _class_kind(classes[0]) if classes else ""

    def predict(self, features: dict[str, Any], key: bytes = b"") -> Answer:  # noqa: ARG002 one model for all keys
        """Answer with River's prediction, and the probabilities of a classifier that has them."""
        try:
            return self._predict(features)
        except BaseException as error:
            _tell_panic(error)
            raise

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:  # noqa: ARG002 one model for all keys
        """Learn one labelled record."""
        if not self._class_kind and self.task == "multiclass":
            self._class_kind = _class_kind(label)
        try:
            self._learn_one(features, label)
        except BaseException as error:
            _tell_panic(error)
            raise

    def dump(self, key: bytes = b"") -> bytes:  # noqa: ARG002 one model for all keys
        """Return the model as bytes. Raises ModelError when a part of it can't be saved."""
        return self._saved(None) or b""

    def dump_within(self, bytes_max: int) -> bytes | None:
        """Return the model as `dump` does, or give up early and return None when it takes more bytes than these."""
        return self._saved(bytes_max)

    def _saved(self, bytes_max: int | None) -> bytes | None:
        from headrace.state.models.codec.graph import CodecError  # noqa: PLC0415 see preload

        try:
            saved: bytes | None = self._objects.dump((self._class_kind, self._model), bytes_max=bytes_max)
        except CodecError as error:
            raise ModelError(f"the model can't be saved: {error}", hint=error.hint) from error
        return saved

    def load(self, state: bytes, key: bytes = b"") -> None:  # noqa: ARG002 one model for all keys
        """Become the model that `dump` gave these bytes for. Raises ModelError for any others, and runs nothing."""
        from headrace.state.models.codec.graph import CodecError  # noqa: PLC0415 see preload

        try:
            kind, model = self._objects.load(state)
        except CodecError as error:
            raise ModelError(f"the model's bytes can't be loaded: {error}", hint=error.hint) from error
        self._class_kind = kind if kind in {"string", "number"} else ""
        self._take(model)

    def adopt(self, model: Any) -> None:
        """Go on with a model of the same shape, which is this learner's own from now on."""
        _order_sets(model)
        self._take(model)

    def _take(self, model: Any) -> None:
        self._model = model
        self._learn_one = model.learn_one
        self._predict: Callable[[dict[str, Any]], Answer] = getattr(self, self._way)

    def _predict_number(self, features: dict[str, Any]) -> Answer:
        return self._model.predict_one(features), None

    def _predict_class(self, features: dict[str, Any]) -> Answer:
        return self._model.predict_one(features), None

    def _predict_likeliest(self, features: dict[str, Any]) -> Answer:
        proba = self._model.predict_proba_one(features)
        return (max(proba, key=proba.get) if proba else None), proba

    def _predict_both(self, features: dict[str, Any]) -> Answer:
        prediction = self._model.predict_one(features)
        try:
            return prediction, self._model.predict_proba_one(features)
        except NotImplementedError:
            # A wrapper only finds out from what it wraps.
            self._predict = self._predict_class
            return prediction, None


def task_of(model: Any) -> Task:
    """Name what the model answers. Raises ModelError when it is no classifier and no regressor."""
    from river import base  # noqa: PLC0415 see _way_of

    last = _last_step(model)
    if isinstance(last, base.Regressor):
        return "regression"
    if isinstance(last, base.Classifier):
        return "multiclass" if last._multiclass else "binary"  # noqa: SLF001 River has no public name for it
    raise ModelError(
        f"the factory returned {type(model).__name__}, which is no River classifier or regressor",
        hint="return a model such as StandardScaler() | LogisticRegression()",
    )


def _way_of(model: Any, task: Task) -> str:
    """Name the method of a learner that asks such a model."""
    if task == "regression":
        return "_predict_number"
    from river import base  # noqa: PLC0415 commands that never build a model must not wait for River

    last = _last_step(model)
    # River's own predict_one is the likeliest class of predict_proba_one: asking once is enough,
    # unless the classifier decides in a way of its own.
    if type(last).predict_proba_one is base.Classifier.predict_proba_one:
        return "_predict_class"
    return "_predict_likeliest" if type(last).predict_one is base.Classifier.predict_one else "_predict_both"


def preload() -> None:
    """Import all of River, so that processes that are forked afterwards need not: it takes seconds, most in scipy."""
    importlib.import_module("river.api")
    importlib.import_module("headrace.state.models.codec.model_codec")


def reseed() -> None:
    """Let this process draw random numbers of its own where it was forked: numpy would go on with its parent's."""
    importlib.import_module("numpy.random").seed()


def load_factory(reference: str, directory: Path) -> Callable[[], Any]:
    """Find `module:function` beside the configuration. Raises ModelError with what is missing."""
    module_name, _, function_name = reference.partition(":")
    hidden = shadowing(directory)
    if hidden:
        raise ModelError(
            f"{directory / hidden} hides a module of the same name that Headrace, Python or a library has",
            hint=f"give {hidden} another name",
        )
    # A worker's own process is started for one project, so the project's folder goes first.
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    try:
        factory: Any = getattr(importlib.import_module(module_name), function_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever it is, such as a panic of a part in Rust
        raise ModelError(
            f"model.factory = {reference!r} can't be loaded: {type(error).__name__}: {error}",
            hint=_way_to(error, module_name, function_name or "build", directory),
        ) from error
    if not callable(factory):
        raise ModelError(
            f"model.factory = {reference!r} is no function",
            hint="name a function that takes nothing and returns a River model",
        )
    return functools.partial(factory)


def _way_to(error: BaseException, module: str, function: str, directory: Path) -> str:
    """Say what to do about a factory that can't be loaded: its module is missing, lacks the function, or fails."""
    file = directory.joinpath(*module.split(".")).with_suffix(".py")
    if module in sys.modules:
        return f"put a function {function}() into {sys.modules[module].__file__ or file}"
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return f"write {file} with a function {function}() in it"
    return f"mend what {file} does when it is imported: cd {directory} && python -c 'import {module}'"


def build(factory: Callable[[], Any], *, trusted: frozenset[str] = frozenset(), pickles: bool = False) -> RiverLearner:
    """Make a new learner, and prove that it can be saved and loaded. Raises ModelError.

    `pickles` lets objects that decide themselves how they are saved be pickled.
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
    learner = RiverLearner(model, trusted=trusted, pickles=pickles)
    copy.copy(learner).load(learner.dump())
    return learner


def _tell_panic(error: BaseException) -> None:
    """Raise a panic of River's parts in Rust as an error like any: it is no Exception, and would end the process."""
    if type(error).__name__ == "PanicException":
        raise ArithmeticError(f"a native part of River panicked: {error}") from error


def _objects_of(model: Any, trusted: frozenset[str], *, pickles: bool) -> Any:
    # numpy is a third of a command's start, and those that build no model need neither.
    from headrace.state.models.codec.graph import CodecError  # noqa: PLC0415
    from headrace.state.models.codec.model_codec import ModelCodec  # noqa: PLC0415

    try:
        return ModelCodec(model, modules=trusted, pickles=pickles)
    except CodecError as error:
        raise ModelError(f"the model can't be saved: {error}", hint=error.hint) from error


def _last_step(model: Any) -> Any:
    from river import compose  # noqa: PLC0415 see _way_of

    while isinstance(model, compose.Pipeline):
        model = list(model.steps.values())[-1]
    return model


def _binary_label(raw: Any) -> bool:
    if raw is True or raw is False:
        return bool(raw)
    if isinstance(raw, int | float) and raw in (0, 1):
        return bool(raw)
    raise LabelError(f"the label {_shown(raw)} is neither true nor false, as this binary model needs")


def _class_label(raw: Any) -> bool | int | str:
    if isinstance(raw, bool | int | str):
        return raw
    if isinstance(raw, float) and raw.is_integer():
        return int(raw)
    raise LabelError(f"the label {_shown(raw)} is no class: a string, a whole number or a boolean is")


def _number_label(raw: Any) -> int | float:
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return raw
    raise LabelError(f"the label {_shown(raw)} is no number, as this regression model needs")


def _class_kind(label: Any) -> str:
    return "string" if isinstance(label, str) else "number"


def _shown(raw: Any) -> str:
    if isinstance(raw, dict | list):
        # Nested ones may be deeper than `repr` can go.
        return "that is an object" if isinstance(raw, dict) else "that is an array"
    text = repr(raw)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 what a line of log can hold


def _order_sets(model: Any) -> None:
    """Lay each set out as its members alone decide: pickling does not keep the order in which a set is gone through.

    A model that was saved and loaded would else sum the same features in another order, and its predictions
    would differ in their last bits.
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
    """Tell whether a member's text is its value: that of an object tells where it lies, or whatever its class says."""
    if isinstance(member, tuple | frozenset):
        return all(map(_has_text, member))
    text: Any = type(member).__repr__
    return text is not object.__repr__ and not isinstance(text, types.FunctionType)
