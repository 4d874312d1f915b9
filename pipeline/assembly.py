"""From the configuration to the parts: how records are read, how labels are waited for, and what learns."""

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from headrace.consumers import schema
from headrace.consumers.label import LabelDecoder
from headrace.consumers.record import Decoder
from headrace.consumers.source import SourceError
from headrace.consumers.topics import Topics
from headrace.pipeline.config.config import ENV_PREFIX, Config, ConfigError
from headrace.pipeline.engine import dead_letter
from headrace.pipeline.engine.engine import Engine
from headrace.producers.record_size import SizeLimits
from headrace.producers.webhook import Webhook
from headrace.state.compiled import compiler
from headrace.state.keyed.array_bank import slab_for
from headrace.state.keyed.bank import Bank, RiverBank
from headrace.state.keyed.keyring import TABLE as KEYS
from headrace.state.keyed.keyring import Keyring
from headrace.state.keyed.rows import kernel
from headrace.state.labels.label_join import LabelRules
from headrace.state.models import learner
from headrace.state.models.model import Mind, UndoableModel
from headrace.state.models.user_modules import modules_beside
from headrace.state.shared.mix_store import MixStore
from headrace.state.shared.replica import Replica, ReplicaPart
from headrace.state.store.store import Store

log = structlog.get_logger("headrace")


def decoder(config: Config) -> Decoder:
    """Return what reads feature records, with the schema that is declared."""
    declared = config.schema_
    if not declared.features and declared.extra:
        return Decoder(value_bytes_max=config.records.value_bytes_max)
    features = {
        name: schema.Feature(
            type=feature.type,
            required=feature.required,
            nullable=feature.nullable,
            minimum=feature.min,
            maximum=feature.max,
            values=feature.values,
        )
        for name, feature in declared.features.items()
    }
    return Decoder(schema=schema.Schema(features, extra=declared.extra), value_bytes_max=config.records.value_bytes_max)


def warm(config: Config) -> None:
    """Bring compiled code into this process: whatever is forked afterwards has it, too.

    What no process on this machine has compiled yet takes its time here, once.
    """
    by_key = config.model.scope == "key"
    if by_key:
        kernel()
    if _may_compile(config) and has_numba():
        importlib.import_module("headrace.pipeline.engine.columnar").warm(machine=not by_key)


def tell_models(config: Config, partitions: int) -> None:
    """Log that the partitions have a model each, if there are several: many users expect one model for all records."""
    if config.model.scope == "partition" and partitions > 1:
        log.info(
            "each partition has its own model",
            partitions=partitions,
            share=f"each model sees about 1/{partitions} of the records",
            hint='model.scope = "global" merges the models of all workers, "key" keeps one for each Kafka key; '
            "a features topic with one partition has one model",
        )


def has_numba() -> bool:
    """Tell whether this machine can compile kernels."""
    return importlib.util.find_spec("numba") is not None


def rules(config: Config, *, default: Any) -> LabelRules | None:
    """Return how labels are waited for, with the default as the model takes it; None without a labels topic."""
    labels = config.labels
    if config.topics.labels is None:
        return None
    return LabelRules(
        wait_ms=round(labels.wait * 1_000),
        waiting_max=labels.waiting_max,
        bytes_max=labels.bytes_max,
        remembered_max=labels.remembered_max,
        default=default,
        corrections=labels.corrections,
    )


def engine(config: Config, *, compiled: bool, limits: SizeLimits | None = None) -> Engine:
    """Return what happens to a record; where the model is `compiled`, to many at once."""
    reading = decoder(config)
    return Engine(
        limits=limits,
        decoder=reading,
        lane=_lane(config, reading) if compiled else None,
        topic=config.topics.features,
        name=config.name,
        labels=config.topics.labels or "",
        label_decoder=LabelDecoder(value_bytes_max=config.records.value_bytes_max),
    )


def _lane(config: Config, reading: Decoder) -> Any:
    # What it needs of numba is imported where a model is compiled, and nowhere else.
    columnar = importlib.import_module("headrace.pipeline.engine.columnar")
    return columnar.ColumnarEngine(decoder=reading, topic=config.topics.features, name=config.name)


def size_limits(config: Config, topics: Topics) -> SizeLimits:
    """Ask for the largest batch that each output topic takes. Raises SourceAway, SourceError."""
    names = config.topics
    found = topics.limits(names.predictions, names.dead_letters)
    # The client itself refuses a larger record.
    client = int(config.librdkafka.get("message.max.bytes", sys.maxsize))
    needed = dead_letter.least_bytes(topic=names.features, group=config.name)
    if (least := found[names.dead_letters]) < needed:
        raise SourceError(
            f"{names.dead_letters} takes {least} bytes at most; where a record stood and what is wrong takes {needed}",
            hint=f"raise max.message.bytes of {names.dead_letters}",
        )
    return SizeLimits(min(found[names.predictions], client), min(found[names.dead_letters], client))


def webhook(config: Config) -> Webhook | None:
    """Return the HTTP sink, if there is one."""
    http = config.sink.http
    if http is None:
        return None
    headers = {name: value.get_secret_value() for name, value in http.headers.items()}
    return Webhook(http.url, headers=headers, timeout_s=http.timeout, conceal=config.conceal)


class ModelFactory(msgspec.Struct, frozen=True):
    """What learns: `make` gives a new mind for a partition, `default` is the label of who gets none (None for none).

    `commons` is there where all partitions share one model; `compiled` says that the minds take many records at once.
    """

    make: Callable[[int], Mind]
    default: Any
    commons: Replica | None = None
    compiled: bool = False


def builder(config: Config) -> Callable[[], learner.RiverLearner]:
    """Return what makes a new learner of the configured model. Raises ModelError, as does what is returned."""
    factory = learner.load_factory(config.model.factory, config.directory)
    trusted = frozenset(config.model.trusted_packages) | modules_beside(config.directory)
    # A pickle runs what it says: it must be known who wrote it.
    pickles = config.model.allow_pickle and bool(config.redis.signature)
    return lambda: learner.build(factory, trusted=trusted, pickles=pickles)


def minds(config: Config, store: Store) -> ModelFactory:
    """Return what learns, having made one model. Raises ModelError, ConfigError."""
    build = builder(config)
    first = build()
    if first.unseeded:
        log.warning("the model draws random numbers without a seed: give it one, or it can't be relearned")
    if first.unread:
        log.warning("code without a source is not watched: a change of it goes unnoticed", definitions=first.unread)
    default = _default(config, first)
    if config.model.scope == "key":
        keyring = _keyring(config, store, 0, lambda: _bank(build))
        return ModelFactory(
            lambda partition: _keyring(config, store, partition, lambda: _bank(build)),
            default,
            compiled=_may_compile(config) and keyring.compiled is not None,
        )
    if config.model.scope == "global":
        pool = MixStore(store, name=config.name)
        commons = Replica(pool, build)
        return ModelFactory(lambda _partition: ReplicaPart(commons), default, commons)
    compiled = fastest(config, first).atomic
    return ModelFactory(lambda _: UndoableModel(fastest(config, build())), default, compiled=compiled)


def fastest(config: Config, built: learner.RiverLearner) -> learner.Learner:
    """Return what runs a model that was built for all of its records: compiled where that may be and can be."""
    made = compiler.compile_model(built.model) if config.model.scope != "key" and _may_compile(config) else None
    return built if made is None else made


def _may_compile(config: Config) -> bool:
    # A kernel is fast over many records at once, and slower than River for one: labels of their own come one by one.
    return config.model.scope != "global" and config.model.compile and config.topics.labels is None


def _keyring(config: Config, store: Store, partition: int, make: Callable[[], Bank]) -> Keyring:
    keys = config.keys
    return Keyring(
        make(),
        fetch=lambda asked, stand: store.fetch(partition, KEYS, asked, base=stand),
        scan=lambda: store.pages(partition, KEYS),
        hot_max=keys.hot_max,
        silent_ms=None if keys.silent is None else round(keys.silent * 1_000),
        prior=make() if keys.prior else None,
    )


def _bank(build: Callable[[], learner.RiverLearner]) -> Bank:
    """Return an empty bank of the models that the factory makes: in arrays where that is known how."""
    first = build()
    slab = slab_for(first.model)
    return RiverBank(first) if slab is None else slab


def _default(config: Config, model: learner.Learner) -> Any:
    """Return the default label as the model takes it, None for none. Raises ConfigError where it is no label."""
    default = config.labels.default
    if config.topics.labels is None or default is None:
        return None
    # From the environment all comes as text, and what was meant is what JSON would make of it.
    told = _unquoted(default) if f"{ENV_PREFIX}LABELS__DEFAULT" in map(str.upper, os.environ) else default
    try:
        return model.label(told)
    except learner.LabelError as error:
        raise ConfigError(f"labels.default: {error}", hint="give it a label of the model's own kind") from error


def _unquoted(said: Any) -> Any:
    """Read what came as text, as all does from the environment, as the JSON that it may be."""
    try:
        return json.loads(said) if isinstance(said, str) else said
    except ValueError:
        return said
