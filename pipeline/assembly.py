"""Builds the parts from the configuration: the decoder, the rules for labels, the engine, the source and the sinks."""

import importlib
import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import structlog

from headrace.consumers import schema
from headrace.consumers.formats.format_decoder import FormatDecoder, FormatLabelDecoder
from headrace.consumers.formats.schema_cache import KINDS, SchemaCache
from headrace.consumers.mapped_decoder import MappedDecoder, MappedLabelDecoder
from headrace.consumers.record import Decoder, LabelDecoder, LabelRecordDecoder, RecordDecoder
from headrace.consumers.source import Source, SourceError
from headrace.consumers.topics import BATCH_BYTES_MAX, Topics
from headrace.pipeline import code_cache, formats, model_factory
from headrace.pipeline.config.config import Config
from headrace.pipeline.engine import dead_letter
from headrace.pipeline.engine.contest import Contest, PromotionRules
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.engine.lifecycle import Lifecycle
from headrace.pipeline.engine.outputs import EncodePrediction
from headrace.pipeline.model_factory import ModelFactory
from headrace.producers.output import Reach
from headrace.producers.record_size import SizeLimits
from headrace.producers.sink import Deadline, PlainSink, Sink, TransactionalSink
from headrace.producers.webhook import Webhook
from headrace.state.labels.label_join import LabelRules

log = structlog.get_logger("headrace")


def decoder(config: Config, schemas: SchemaCache | None = None) -> RecordDecoder:
    """Return the decoder of feature records, with the configured format, mapping and schema. Raises ModelError.

    `schemas` are those that a worker looks up; without them the decoder asks the registry itself.
    """
    if config.records.format != "json":
        schemas = schemas or formats.cache_of(config, is_asking=True)
    if config.records.format == "json" or schemas is None:
        return json_decoder(config)
    records, transform = config.records, model_factory.transform_of(config)
    return FormatDecoder(
        schemas,
        records.mapping,
        schema=_schema(config),
        transform=transform,
        value_bytes_max=records.value_bytes_max,
    )


def json_decoder(config: Config) -> RecordDecoder:
    """Return the decoder of feature records in JSON; `records.format` has no effect on it. Raises ModelError."""
    records, features = config.records, _schema(config)
    mapping, transform = records.mapping, model_factory.transform_of(config)
    if mapping.is_default and transform is None:
        return Decoder(schema=features, value_bytes_max=records.value_bytes_max)
    return MappedDecoder(mapping, schema=features, transform=transform, value_bytes_max=records.value_bytes_max)


def label_decoder(config: Config, schemas: SchemaCache | None = None) -> LabelRecordDecoder:
    """Return the decoder of records of the labels topic."""
    records, mapping = config.records, config.records.labels_mapping(config.labels)
    if config.label_format != "json" and (schemas := schemas or formats.cache_of(config, is_asking=True)):
        return FormatLabelDecoder(schemas, mapping, value_bytes_max=records.value_bytes_max)
    if mapping.is_default:
        return LabelDecoder(value_bytes_max=records.value_bytes_max)
    return MappedLabelDecoder(mapping, value_bytes_max=records.value_bytes_max)


def _schema(config: Config) -> schema.Schema | None:
    declared = config.schema_
    if not declared.features and declared.extra:
        return None
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
    return schema.Schema(features, extra=declared.extra)


def warm(config: Config) -> None:
    """Load the compiled code into this process, so that processes that are forked later have it, too.

    The first time on a machine, the code is compiled here, which takes a while.
    """
    if model_factory.may_compile(config) and model_factory.has_numba():
        if reason := code_cache.fault():
            log.warning(
                "compiled code can't be kept, so each start compiles",
                folder=os.environ[code_cache.VARIABLE],
                reason=reason,
                hint=f"let {code_cache.VARIABLE} name a folder that this user may write to",
            )
        importlib.import_module("headrace.pipeline.engine.columnar").warm()
        if (kind := KINDS.get(config.records.format)) is not None and kind != "JSON":
            importlib.import_module("headrace.consumers.formats.binary.scan").warm(kind)


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


def rules(config: Config, *, default: Any) -> LabelRules | None:
    """Return the rules for late labels, with the default label in the model's type; None without a labels topic."""
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


def engine(
    config: Config,
    *,
    batches: bool,
    limits: SizeLimits | None = None,
    schemas: SchemaCache | None = None,
    encode: EncodePrediction | None = None,
    lifecycle: Lifecycle | None = None,
) -> Engine:
    """Return the engine; it handles many records at once if models take `batches`.

    `schemas` are those of records in another format than JSON, and `encode` makes predictions of such a format.
    `lifecycle` is what happens to the models between the records.
    """
    reading = decoder(config, schemas)
    return Engine(
        limits=limits,
        outputs=tuple(config.topics.outputs),
        decoder=reading,
        columnar=_columnar(config, reading) if batches else None,
        topic=config.topics.features,
        name=config.name,
        labels=config.topics.labels or "",
        label_decoder=label_decoder(config, schemas),
        encode=encode,
        form=config.predictions.form,
        lifecycle=lifecycle,
    )


def lifecycle_of(config: Config, models: ModelFactory, *, partitions: int) -> Lifecycle:
    """Return what happens to the models of a features topic with this number of partitions between the records."""
    if models.contend is None:
        return Lifecycle()
    promotion = config.promotion
    rules = PromotionRules(
        mode=promotion.mode,
        loss=promotion.loss,
        alpha=promotion.alpha,
        pairs_min=promotion.pairs_min,
        span_ms=round(promotion.span_min * 1_000),
        probation_ms=round(promotion.probation * 1_000),
        partitions=partitions,
    )
    wanted = {} if promotion.mode == "off" else config.challengers
    configured = {name: challenger.factory for name, challenger in wanted.items()}
    return Lifecycle(Contest(models.contend, rules, factory=config.model.factory), configured=configured)


def _columnar(config: Config, reading: RecordDecoder) -> Any:
    # It imports numba, which only compiled models need.
    columnar = importlib.import_module("headrace.pipeline.engine.columnar")
    form = config.predictions.form
    binary = None
    if isinstance(reading, FormatDecoder):
        binary = partial(_format_scanner(config.records.format), reading)
    name, topic = config.name, config.topics.features
    return columnar.ColumnarEngine(decoder=reading, topic=topic, name=name, form=form, binary=binary)


def _format_scanner(form: str) -> Any:
    """Return the class of the scanner of a format other than JSON. It imports numba, too."""
    if form == "json-schema":
        return importlib.import_module("headrace.consumers.formats.framed_json_scan").FramedJsonScanner
    return importlib.import_module("headrace.consumers.formats.binary.scan").BinaryScanner


def size_limits(config: Config, topics: Topics) -> SizeLimits:
    """Ask for the largest batch that each output topic takes. Raises SourceAway, SourceError."""
    names = config.topics
    found = topics.limits(*names.outputs.values())
    for topic in set(names.outputs.values()) - found.keys():
        found[topic] = BATCH_BYTES_MAX
        hint = f"give the user DESCRIBE_CONFIGS on {topic}"
        log.warning("a topic's limit is not known: Kafka's default is assumed", topic=topic, hint=hint)
    client = config.client_bytes_max
    needed = dead_letter.least_bytes(topic=names.features, group=config.name)
    if (least := found[names.dead_letters]) < needed:
        raise SourceError(
            f"{names.dead_letters} takes {least} bytes at most; the headers of a dead letter alone need {needed} bytes",
            hint=f"raise max.message.bytes of {names.dead_letters}",
        )
    return SizeLimits({output: min(found[topic], client) for output, topic in names.outputs.items()})


def client_properties(config: Config, ordinal: int) -> dict[str, Any]:
    """Return the properties of a worker's Kafka clients."""
    properties = {**config.librdkafka, "logger": logging.getLogger("librdkafka")}
    # A static member: after a kill and a restart it has its partitions again without a rebalance, and a broker that
    # returns waits for no session. An empty name makes the member dynamic. With the newer protocol members are
    # dynamic: there the broker refuses a static one until the session of the dead one is over.
    newer = properties.get("group.protocol") == "consumer"
    member = properties.get("group.instance.id", "" if newer else config.name)
    properties["group.instance.id"] = f"{member}-{ordinal}" if member else ""
    return properties


def source(config: Config, properties: Mapping[str, Any]) -> Source:
    """Return the source: the features topic, and the labels topic if there is one. Raises SettingsRefused."""
    return Source(properties, group=config.name, topic=config.topics.features, labels=config.topics.labels)


def sink(
    config: Config,
    properties: Mapping[str, Any],
    *,
    outputs: Mapping[str, str],
    ordinal: int,
    is_mock: bool,
    limits: SizeLimits,
    deadline: Deadline,
    reach: Reach,
) -> Sink:
    """Return the sink of these outputs, the topics by name: with transactions for exactly-once.

    It has none on a mock cluster, which knows no transactions.
    """
    topics = config.topics
    made: Sink
    if config.delivery.guarantee == "exactly-once" and not is_mock:
        made = TransactionalSink(
            properties,
            transactional_id=f"{config.name}-{ordinal}",
            features=topics.features,
            labels=topics.labels,
            outputs=outputs,
            deadline=deadline,
            reach=reach,
        )
    else:
        if config.delivery.guarantee == "exactly-once":
            log.warning("the mock cluster knows no transactions: at-least-once, and nothing is kept")
        made = PlainSink(properties, outputs=outputs, deadline=deadline, reach=reach)
    made.batch_bytes_max = limits.batch
    return made


def webhook(config: Config) -> Webhook | None:
    """Return the HTTP sink, if there is one."""
    http = config.sink.http
    if http is None:
        return None
    headers = {name: value.get_secret_value() for name, value in http.headers.items()}
    return Webhook(http.url, headers=headers, timeout_s=http.timeout, conceal=config.conceal)
