"""The tables of the configuration: every key with its type, its default and its meaning.

Users read these descriptions, and the docstrings of the tables: in headrace.toml and in docs/configuration.md.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from headrace.consumers.client_properties import OWNED_SETTINGS
from headrace.consumers.schema import FeatureType
from headrace.pipeline.config.duration import duration_s, interval_of, records_of
from headrace.pipeline.config.property_names import dotted
from headrace.producers.output import OutputTopic
from headrace.state.seal import SIGN_KEY_BYTES_MIN
from headrace.state.store.address import ESCAPE, parse
from headrace.state.store.client import CLIENT_OPTIONS, CLUSTER_OPTIONS, OWNED_OPTIONS

# How often a worker without new examples asks for a newer mix.
_MIX_IDLE_S = 1.0
_MONTH_MS = 30 * 24 * 3_600_000

Seconds = Annotated[float, BeforeValidator(duration_s), Field(gt=0, allow_inf_nan=False)]

# An address may be written as listeners are: SASL_SSL://host:port.
_BROKER = re.compile(
    r"(?:(?P<protocol>\w+)://)?(?P<address>(?:[\w.-]+|\[[\da-fA-F:.%\w]+\]):(?P<port>\d{1,5}))", re.ASCII
)
# Properties of redis-py that name a file or a folder.
_PATHS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, and errors do not quote values."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KafkaConfig(Section):
    """How to reach Kafka."""

    bootstrap_servers: str = Field("127.0.0.1:9092", description="Kafka brokers as host:port, separated by commas.")
    oauth: str | None = Field(
        None,
        pattern=r"^[\w.]+:\w+$",
        description="Function that returns a token for SASL OAUTHBEARER and its end in seconds since 1970, as "
        "module:function beside this file. It gets sasl.oauthbearer.config.",
    )
    librdkafka: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        repr=False,
        description="Any property of librdkafka, passed on unchanged. The few that Headrace sets itself are refused.",
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(","):
            found = _BROKER.fullmatch(address.strip())
            if found is None or not 0 < int(found["port"]) < 65_536:  # noqa: PLR2004 ports end
                # The value may contain a user and a password: it must not be quoted.
                raise ValueError("an address is not like host:9092, [::1]:9092 or SASL_SSL://host:9092")
        return value

    @field_validator("librdkafka", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return dotted(value)

    @field_validator("librdkafka")
    @classmethod
    def _not_owned(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in OWNED_SETTINGS:
                raise ValueError(f"{name} is set by the pipeline itself; remove it")
        return value

    @model_validator(mode="after")
    def _one_protocol(self) -> "KafkaConfig":
        """Accept addresses with a protocol, if it is the protocol of the properties."""
        protocol = str(self.librdkafka.get("security.protocol", "plaintext"))
        if self.oauth is not None and not protocol.lower().startswith("sasl"):
            raise ValueError("oauth needs security.protocol = SASL_SSL (or SASL_PLAINTEXT) in [kafka.librdkafka]")
        brokers = [_BROKER.fullmatch(address.strip()) for address in self.bootstrap_servers.split(",")]
        for broker in filter(None, brokers):
            if (named := broker["protocol"] or protocol).lower() != protocol.lower():
                raise ValueError(
                    f"bootstrap_servers says {named}:// and security.protocol in [kafka.librdkafka] is {protocol}"
                )
        object.__setattr__(self, "bootstrap_servers", ",".join(broker["address"] for broker in brokers if broker))
        return self


class TopicsConfig(Section):
    """The topics. Headrace creates the missing ones if the broker allows it."""

    # A key with an `OutputTopic` is the whole declaration of an output, and the key is the output's name. The check and
    # the creation of the topic, its limits, `doctor`, the metrics, the rights in docs/security.md and the transaction
    # follow from it. `PartitionOutputs.records` has the outputs that have a topic: the engine fills those.
    features: str = Field("features", description="Topic of the records to predict and to learn from.")
    predictions: Annotated[str, OutputTopic()] = Field("predictions", description="Topic of the predictions.")
    labels: str | None = Field(
        None, description="Topic of labels that come later. Labels and features are joined by id."
    )
    dead_letters: Annotated[str, OutputTopic(carries_records=True, retention_ms=_MONTH_MS)] = Field(
        "", description="Topic of the refused records. Empty means dlq.<features>."
    )
    partitions: int = Field(
        4,
        ge=1,
        le=10_000,
        description="Number of partitions of a features topic that Headrace creates.",
    )

    @property
    def outputs(self) -> dict[str, str]:
        """The topic of each output, by the output's name."""
        return {name: topic for name in self.declared() if (topic := getattr(self, name))}

    @property
    def wanted(self) -> dict[str, Any]:
        """The topics as `consumers.topics.Topics.ensure` takes them."""
        declared, names = self.declared(), self.outputs
        settings = {topic: declared[name].settings for name, topic in names.items()}
        return {"features": self.features, "labels": self.labels, "partitions": self.partitions, "outputs": settings}

    @classmethod
    def declared(cls) -> dict[str, OutputTopic]:
        """Return what each output asks of its topic, by the output's name."""
        fields = cls.model_fields.items()
        return {name: found for name, field in fields for found in field.metadata if isinstance(found, OutputTopic)}

    @model_validator(mode="after")
    def _distinct(self) -> "TopicsConfig":
        if not self.dead_letters:
            object.__setattr__(self, "dead_letters", f"dlq.{self.features}")
        for name, output in self.declared().items():
            if not output.optional and not getattr(self, name):
                raise ValueError(f"{name} must name a topic")
        names = [self.features, *self.outputs.values(), *([] if self.labels is None else [self.labels])]
        if len(set(names)) < len(names):
            keys = ", ".join(("features", *self.outputs))
            raise ValueError(f"{keys} and labels must differ; they are {names}")
        return self


class RedisConfig(Section):
    """How to reach Redis or Valkey, which keeps the models."""

    url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Address: redis://, rediss:// (TLS) or unix://, redis+cluster://host:port,… or "
        "redis+sentinel://host:port,…/service/0, with the password. With TLS: rediss+cluster://, rediss+sentinel://.",
    )
    timeout: Seconds = Field(3.0, description="How long to wait for an answer before the store counts as away.")
    sign_key: SecretStr | None = Field(
        None,
        description="Signs stored data; unsigned data is ignored. 16 bytes or more, best as ${file:/run/secrets/NAME}.",
    )
    client: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        repr=False,
        description="Any property of redis-py's client, such as ssl_ca_certs, ssl_certfile, ssl_keyfile or username.",
    )
    sentinel: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        repr=False,
        description="The same for the connections to the sentinels, such as username and password.",
    )

    @property
    def signature(self) -> bytes:
        """The bytes of the key; empty if nothing is signed."""
        return b"" if self.sign_key is None else self.sign_key.get_secret_value().encode()

    @field_validator("sign_key")
    @classmethod
    def _long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and 0 < len(value.get_secret_value().encode()) < SIGN_KEY_BYTES_MIN:
            raise ValueError(
                f"it has fewer than {SIGN_KEY_BYTES_MIN} bytes: make one with `openssl rand -hex 32`, "
                "or leave it out to sign nothing"
            )
        return value

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: SecretStr) -> SecretStr:
        parse(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _known_options(self) -> "RedisConfig":
        """Refuse properties that the client does not know, or would ignore."""
        address = parse(self.url.get_secret_value())
        known = CLUSTER_OPTIONS if address.topology == "cluster" else CLIENT_OPTIONS
        if self.sentinel and address.topology != "sentinel":
            raise ValueError("[redis.sentinel] is for redis+sentinel:// and rediss+sentinel://; remove it")
        for table, options in {"client": self.client, "sentinel": self.sentinel}.items():
            for name in options:
                if name not in known:
                    near = difflib.get_close_matches(name, known, n=1)
                    advice = f"did you mean {near[0]}?" if near else "redis-py has no such property"
                    if name in OWNED_OPTIONS:
                        advice = "it follows from redis.url and redis.timeout"
                    raise ValueError(f"{table}.{name} can't be set: {advice}")
                if name.startswith("ssl_") and not address.tls:
                    raise ValueError(f"{table}.{name} needs TLS: write url with rediss:// or rediss+…")
        for name in self.files:
            if not Path(name).exists():
                raise ValueError(f"there is no file {name}")
        return self

    @property
    def files(self) -> list[str]:
        """The certificates and keys that the client reads, and the folder of certificates."""
        tables = (self.client, self.sentinel, parse(self.url.get_secret_value()).options)
        return [str(table[name]) for table in tables for name in _PATHS if name in table]


class ModelConfig(Section):
    """The model."""

    factory: str = Field(
        "model:build",
        pattern=r"^[\w.]+:\w+$",
        description="Function that builds the model, as module:function. The module is looked up beside this file.",
    )
    scope: Literal["partition", "key", "global"] = Field(
        "partition", description="One model for each partition, one for each key, or one for all workers (global)."
    )
    horizon: int = Field(1, ge=1, le=1_000, description="Number of values that a forecaster predicts.")
    bytes_max: int = Field(
        268_435_456,
        ge=1,
        le=500_000_000,
        description="Largest saved model of a partition, in bytes. At 80 % there is a warning, above it the pipeline "
        "stops: new names, categories, words and nodes make a model grow.",
    )
    trusted_packages: tuple[str, ...] = Field(
        (),
        description="Packages beside River whose objects the model creates only while it learns.",
    )
    allow_pickle: bool = Field(
        False, description="Pickle objects of your own classes that define how they are saved. Needs redis.sign_key."
    )
    compile: bool = Field(
        True, description="Run the steps that Headrace knows as compiled code. `headrace model explain` lists them."
    )


class KeysConfig(Section):
    """A model for each key (model.scope = "key")."""

    prior: bool = Field(False, description="Start a new key with a copy of a model that learns from all keys.")
    hot_max: int = Field(
        100_000, ge=1, description="Maximum number of one partition's models in memory; twice as many during a save."
    )
    silent: Seconds | None = Field(
        None,
        description="Forget a key that sends nothing for this long, in event time. Without it, no key is forgotten.",
    )


class QualityConfig(Section):
    """How good the predictions are."""

    measures: tuple[str, ...] = Field(
        (),
        description="River's metrics to show, of all predictions and of the last 1,000, such as F1, ROCAUC or R2. "
        "Without it: accuracy, or the errors of numbers, or ROCAUC for anomalies.",
    )


class DeliveryConfig(Section):
    """What Headrace promises."""

    guarantee: Literal["exactly-once", "at-least-once"] = Field(
        "exactly-once",
        description="exactly-once, or at-least-once: faster, but after a crash some predictions come twice.",
    )


class BatchConfig(Section):
    """The size of a batch."""

    records_max: int = Field(20_000, ge=1, le=100_000, description="Maximum number of records in a batch.")


class FeatureConfig(Section):
    """One declared feature. NAME is its name in the records."""

    type: FeatureType = Field("number", description="Type of the feature: number, integer, string or boolean.")
    required: bool = Field(True, description="Refuse a record without this feature.")
    nullable: bool = Field(False, description="Accept null. The model then gets None.")
    min: float | None = Field(None, description="Smallest number to accept.")
    max: float | None = Field(None, description="Largest number to accept.")
    values: tuple[str, ...] | None = Field(None, description="The only strings to accept.")


class SchemaConfig(Section):
    """What features a record must have. Without it, any number, string or boolean is accepted."""

    extra: bool = Field(True, description="Accept features that are not declared.")
    features: dict[str, FeatureConfig] = Field(
        default_factory=dict, description="A table for each declared feature: [schema.features.NAME]."
    )


class DeadLettersConfig(Section):
    """Dead letters, and the guard that pauses a stream of bad records."""

    flood_guard: bool = Field(
        True, description="Pause when nearly every record is bad, instead of filling the dead-letter topic."
    )
    flood_ratio: float = Field(
        0.9, gt=0, le=1, description="Share of bad records at which the guard pauses the stream."
    )
    flood_window: int = Field(500, ge=10, le=1_000_000, description="Number of latest records that the guard looks at.")
    replay_max: int = Field(3, ge=1, description="How often one record may be replayed before it is parked.")


class SnapshotConfig(Section):
    """When a model is saved."""

    interval: Seconds = Field(1.0, description="Minimum time between two saves of a partition.")
    records_max: int = Field(
        250_000, ge=1, description="Maximum number of records between two saves. A restart relearns about this many."
    )
    keep: int = Field(3, ge=1, le=1_000, description="Number of versions to keep of each partition's model.")


class HttpSinkConfig(Section):
    """An HTTP server that gets the predictions as well."""

    url: str = Field(
        pattern=r"^https?://\S+$",
        repr=False,
        description="Address to POST each batch of predictions to, as JSON lines.",
    )
    timeout: Seconds = Field(10.0, description="How long to wait for an answer.")
    headers: dict[str, SecretStr] = Field(
        default_factory=dict, description="Headers to send with each request, such as a token."
    )

    @field_validator("url")
    @classmethod
    def _one_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            good = parts.hostname and parts.port != 0
        except ValueError:
            good = False
        # The part of a password after an unescaped / or # would be taken for a path.
        if not good or parts.fragment or "@" in parts.path:
            raise ValueError(f"it must be like https://host:443/path; {ESCAPE}")
        return value


class SinksConfig(Section):
    """Where predictions go, beside the topic."""

    http: HttpSinkConfig | None = Field(
        None, description="An HTTP server that gets each batch of predictions: [sink.http]."
    )


class MetricsConfig(Section):
    """The Prometheus endpoint."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(
        0, ge=0, le=65_535, description="Port of worker 0. Worker 1 uses the next port, and so on. 0 is off."
    )


class LogConfig(Section):
    """The logs."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level to log: debug, info, warning or error."
    )
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="console, json, or auto: console on a terminal and JSON elsewhere."
    )


class MixConfig(Section):
    """How workers share one model (model.scope = "global")."""

    interval: Annotated[str | float, BeforeValidator(interval_of)] = Field(
        1.0,
        description='Maximum time between two merges, or "400 records". A young model is merged more often.',
    )

    @property
    def records(self) -> int | None:
        """The interval in records; None if it is a time."""
        return records_of(self.interval)

    @property
    def seconds(self) -> float:
        """The longest time between two merges; if the interval is in records, the time for an idle worker."""
        return float(duration_s(self.interval)) if self.records is None else _MIX_IDLE_S
