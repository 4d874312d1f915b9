"""Builds models from the configuration: with the user's factory, in the configured scope, compiled if possible."""

import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import structlog

from headrace.pipeline.config.config import ENV_PREFIX, Config, ConfigError
from headrace.pipeline.engine.contest import BuildContender, Contender
from headrace.producers.formats.prediction_schema import has_schema
from headrace.state.compiled import compiler
from headrace.state.keyed.bank_choice import bank_of
from headrace.state.keyed.key_row import FetchRows, ScanRows
from headrace.state.keyed.keyring import TABLE as KEYS
from headrace.state.keyed.keyring import Keyring
from headrace.state.loaded_model import LoadedModel, find_row, find_snapshot, keys_table, saved_model
from headrace.state.measures import fitting
from headrace.state.models import learner
from headrace.state.models.label import LabelError
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Capabilities, Model, Task
from headrace.state.models.spec import Reading
from headrace.state.models.task import ModelError, last_step
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.models.user_modules import modules_beside
from headrace.state.row_packing import TableVersion
from headrace.state.shard_model import MODEL, table_name
from headrace.state.shared.mix_store import MixStore
from headrace.state.shared.replica import Replica
from headrace.state.store.store import Store

log = structlog.get_logger("headrace")


class ModelFactory(msgspec.Struct, frozen=True):
    """Makes the models of a worker: `make` returns the model of a partition, and `can` are the models' capabilities.

    `task` is what they learn. `default` is the label of features whose wait ended, or None to drop them. If all
    partitions share one model, it is `replica`. `contend` makes a model by its name, its factory and its partition.
    `shadows` make the models, by name, that learn beside it and do not answer. `measures` are the configured ones of
    their quality.
    """

    make: Callable[[int], Model]
    can: Capabilities
    task: Task
    default: Any
    replica: Replica | None = None
    contend: BuildContender | None = None
    shadows: Mapping[str, Callable[[int], Model]] = {}
    measures: tuple[str, ...] = ()


def models(config: Config, store: Store) -> ModelFactory:
    """Return the factory of the configured models; it builds one to check it. Raises ModelError, ConfigError."""
    build = builder(config)
    first = build()
    for remark in first.remarks:
        log.warning(remark)
    if first.unread:
        log.warning("code without a source is not watched: a change of it goes unnoticed", definitions=first.unread)
    default, measures = default_label(config, first), config.quality.measures
    contend = partial(contender, config, store)
    for name, challenger in config.challengers.items():
        contend(name, challenger.factory, 0)
    if config.model.scope == "key":
        can = keyring(config, build, _rows(store, 0)).can

        def make(partition: int) -> Model:
            return keyring(config, build, _rows(store, partition))

        return ModelFactory(make, can, first.task, default, contend=contend, measures=measures)
    if config.model.scope == "global":
        replica = Replica(MixStore(store, name=config.name), build, run_as=partial(fastest, config))
        return ModelFactory(lambda _partition: replica, replica.can, first.task, default, replica, measures=measures)
    can = fastest(config, first).can

    def make_one(_partition: int) -> Model:
        return UndoableModel(fastest(config, build()))

    return ModelFactory(make_one, can, first.task, default, contend=contend, measures=measures)


def contender(config: Config, store: Store, name: str, factory: str, partition: int) -> Contender:
    """Return a new model of a name for a partition, and whether it gives probabilities; "" is the configured factory.

    Raises ModelError, ConfigError.
    """
    from headrace.state.compiled.compiled_learner import has_proba  # noqa: PLC0415 it imports River

    build = builder_of(config, factory)
    try:
        built = build()
    except ConfigError as error:
        raise ModelError(f"{factory}: {error}", hint=error.hint) from error
    gives_proba = built.task in {"binary", "multiclass"} and has_proba(built)
    if config.model.scope == "key":
        return Contender(keyring(config, build, _rows(store, partition, name)), gives_proba)
    return Contender(UndoableModel(fastest(config, built)), gives_proba)


def builder_of(config: Config, factory: str) -> Callable[[], RiverLearner]:
    """Return a function that builds a new model with a factory, "" for the configured one. Both raise ModelError."""
    return builder(config, learner.load_factory(factory, config.directory) if factory else None)


def builder(config: Config, factory: Callable[[], Any] | None = None) -> Callable[[], RiverLearner]:
    """Return a function that builds a new model, with the configured factory by default. Both raise ModelError."""
    if factory is None:
        factory = learner.load_factory(config.model.factory, config.directory)
    trusted = frozenset(config.model.trusted_packages) | modules_beside(config.directory)
    # A pickle can run any code, so its writer must be proven by a signature.
    pickles = config.model.allow_pickle and bool(config.redis.signature)
    transform = transform_of(config)
    reading = Reading(config.records.mapping.changed, () if transform is None else (transform,))
    horizon = config.model.horizon

    def build() -> RiverLearner:
        # A part without a seed gets the same one in each process.
        built = learner.build(
            factory, trusted=trusted, pickles=pickles, reading=reading, seed=config.name, horizon=horizon
        )
        _check(config, built)
        return built

    return build


def transform_of(config: Config) -> Callable[[dict[str, Any]], Any] | None:
    """Return the user's function that transforms decoded values, None without one. Raises ModelError."""
    if not config.records.transform:
        return None
    wanted = "name a function that takes a dict and returns a record, or None to skip it"
    return learner.load_function(
        config.records.transform, config.directory, key="records.transform", name="transform", wanted=wanted
    )


def fastest(config: Config, built: RiverLearner) -> Model:
    """Return a model with the same results, compiled if possible."""
    compiled = compiler.compile_model(built.model, spec=built.spec) if may_compile(config) else None
    return built if compiled is None else compiled


def may_compile(config: Config) -> bool:
    """Return whether models may run compiled."""
    return config.model.compile


def has_numba() -> bool:
    """Return whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def load_model(
    config: Config,
    store: Store,
    *,
    name: str = "",
    partition: int | None = None,
    key: bytes = b"",
    version: int | None = None,
) -> LoadedModel:
    """Load a model that predicts and never changes: the newest of a partition, or a `version` of it.

    Of the models of a shard it is the one of this `name`; without a name, the one that answers.
    With `model.scope = "key"` it is the model of `key` in the newest version; without a partition all partitions are
    searched for it. With "global" it is the newest mix of all workers. Raises ModelMissing, ModelMismatch, ModelError,
    and the errors of the store.
    """
    if config.model.scope == "global":
        replica = Replica(MixStore(store, name=config.name), builder(config))
        # Not the replica, which holds the store's client: no copy can be made of that.
        return LoadedModel(replica.local, version=replica.version, offsets=replica.offsets)
    if config.model.scope == "key":
        return _load_key(config, store, name=name, partition=partition, key=key, version=version)
    snapshot, found = find_snapshot(
        store, next(iter(store.partitions()), 0) if partition is None else partition, version
    )
    build = builder_of(config, snapshot.factory_of(name))
    loaded, model = fastest(config, build()), build()
    loaded.load(saved_model(snapshot, name, loaded).state)
    # River is the fastest for one record at a time.
    model.adopt(loaded.to_river())
    return LoadedModel(model, version=found, offsets={snapshot.partition: snapshot.offset})


def _load_key(
    config: Config,
    store: Store,
    *,
    name: str,
    partition: int | None,
    key: bytes,
    version: int | None,
) -> LoadedModel:
    row: bytes | None
    if partition is None:
        partition, row = find_row(store, key, name)
    else:
        [row] = store.fetch(partition, keys_table(store, partition, name), [key])
    snapshot, found = find_snapshot(store, partition, version)
    build = builder_of(config, snapshot.factory_of(name))
    model = keyring(config, build, (lambda _keys, _stored: [row], lambda: iter(())))
    model.load(saved_model(snapshot, name, model).state)
    model.resume(TableVersion(0, 0, int(row is not None)))
    # As of the stream's own time: a key that was silent for too long begins anew.
    model.recall(key)
    return LoadedModel(model, version=found if row else 0, offsets={partition: snapshot.offset}, key=key)


def _rows(store: Store, partition: int, name: str = MODEL) -> tuple[FetchRows, ScanRows]:
    """Return the functions by which the keyring of a name reads its rows from the store."""
    table = table_name(name, KEYS)
    return (
        lambda asked, stored: store.fetch(partition, table, asked, base=stored),
        lambda: store.pages(partition, table),
    )


def keyring(config: Config, build: Callable[[], RiverLearner], rows: tuple[FetchRows, ScanRows]) -> Keyring:
    """Return the models of a partition's keys, which are read by the functions `rows`."""
    keys = config.keys
    return Keyring(
        bank_of(build(), compiles=may_compile(config) and has_numba(), prior=keys.prior),
        fetch=rows[0],
        scan=rows[1],
        hot_max=keys.hot_max,
        silent_ms=None if keys.silent is None else round(keys.silent * 1_000),
    )


def default_label(config: Config, model: Model) -> Any:
    """Return the default label in the model's type, or None. Raises ConfigError if it is not a valid label."""
    default = config.labels.default
    if config.topics.labels is None or default is None:
        return None
    # A value from the environment is text: read it as JSON.
    told = _unquoted(default) if f"{ENV_PREFIX}LABELS__DEFAULT" in map(str.upper, os.environ) else default
    try:
        return model.label(told)
    except LabelError as error:
        raise ConfigError(f"labels.default: {error}", hint="give it a label of the model's own kind") from error


def _check(config: Config, built: RiverLearner) -> None:
    """Raise ConfigError for a key that has no meaning for this model."""
    factory = config.model.factory
    if config.model.horizon > 1 and built.task != "forecasting":
        raise ConfigError(
            f"model.horizon = {config.model.horizon}: {factory} builds a model for {built.task}, not for forecasting",
            hint="remove the key: it is the number of values that a forecaster predicts",
        )
    if built.judges_labels and config.topics.labels is not None:
        raise ConfigError(
            f"topics.labels = {config.topics.labels!r}: {type(last_step(built.model)).__name__} scores a record by its "
            "own label, which has not come yet when the record is predicted",
            hint="remove the key, and send the label inside the record",
        )
    if not has_schema(config.predictions.format, built.task):
        raise ConfigError(
            f"predictions.format = {config.predictions.format!r}: it has no form for a value for each target",
            hint='set it to "json" or "json-schema"',
        )
    _check_measures(config, built)
    _check_threshold(config, built)


def _check_measures(config: Config, built: RiverLearner) -> None:
    """Raise ConfigError for a measure that does not fit the model."""
    wanted = config.quality.measures
    if not wanted:
        return
    from headrace.state.compiled.compiled_learner import has_proba  # noqa: PLC0415 it imports River

    # While features wait for their label, the class is kept that was predicted, and no probability.
    is_known = config.topics.labels is None and built.task in {"binary", "multiclass"} and has_proba(built)
    fits = fitting(built.task, has_proba=is_known)
    odd = next((name for name in wanted if name not in fits), None)
    if odd is None:
        return
    late = " with labels in a topic of their own" if config.topics.labels is not None else ""
    raise ConfigError(
        f"quality.measures: {odd} can't be measured for {config.model.factory}, whose task is {built.task}{late}",
        hint=f"choose from {', '.join(fits)}" if fits else "remove the key",
    )


def _check_threshold(config: Config, first: RiverLearner) -> None:
    """Raise ConfigError for a threshold where no prediction is a class with its probability."""
    if config.predictions.form.threshold is None:
        return
    from headrace.state.compiled.compiled_learner import has_proba  # noqa: PLC0415 it imports River

    if first.task == "binary" and has_proba(first):
        return
    found = "gives no probabilities" if first.task == "binary" else f"is a {first.task} model"
    raise ConfigError(
        f"predictions.threshold = {config.predictions.threshold}: {config.model.factory} {found}",
        hint="remove the key: it is for binary classifiers with probabilities",
    )


def _unquoted(said: Any) -> Any:
    """Parse a text from the environment as JSON; return it unchanged if it is not JSON."""
    try:
        return json.loads(said) if isinstance(said, str) else said
    except ValueError:
        return said
