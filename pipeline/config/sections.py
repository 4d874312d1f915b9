"""The tables of the configuration: every key with its type, its default and what it is for."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator

from headrace.consumers.client_properties import OWNED_SETTINGS
from headrace.consumers.schema import FeatureType
from headrace.pipeline.config.duration import duration_s, interval_of, records_of
from headrace.state.seal import SIGN_KEY_BYTES_MIN

# A worker that has nothing to bring in asks this often for a newer mix.
_MIX_IDLE_S = 1.0

Seconds = Annotated[float, BeforeValidator(duration_s), Field(gt=0, allow_inf_nan=False)]


# An address may be written as listeners are: SASL_SSL://host:port.
_BROKER = re.compile(
    r"(?:(?P<protocol>\w+)://)?(?P<address>(?:[\w.-]+|\[[\da-fA-F:.%\w]+\]):(?P<port>\d{1,5}))", re.ASCII
)
_NUMBERS = frozenset({"db", "health_check_interval", "protocol"})
_OPTIONS = _NUMBERS | frozenset(
    (
        "client_name",
        "password",
        "socket_keepalive",
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_keyfile",
        "ssl_password",
        "username",
    )
)
"""What redis-py takes in a URL, less what the pipeline sets itself."""
_DATABASE = re.compile(r"(/\d{0,6})?", re.ASCII)
_ESCAPE = "in a user or a password write %2F for /, %23 for #, %3F for ? and %40 for @"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KafkaConfig(_Section):
    """Where Kafka is."""

    bootstrap_servers: str = Field("127.0.0.1:9092", description="host:port of one broker or more, with commas")
    librdkafka: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        repr=False,
        description="any librdkafka property, passed on as it is, except the few that the pipeline owns",
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(","):
            found = _BROKER.fullmatch(address.strip())
            if found is None or not 0 < int(found["port"]) < 65_536:  # noqa: PLR2004 ports end
                # What is no address may be a user and a password.
                raise ValueError("an address is not host:port, as [::1]:9092 and SASL_SSL://host:9092 are, too")
        return value

    @field_validator("librdkafka")
    @classmethod
    def _not_owned(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in OWNED_SETTINGS:
                raise ValueError(f"{name} is the pipeline's own to set; take it out")
        return value

    @model_validator(mode="after")
    def _one_protocol(self) -> "KafkaConfig":
        """Take the addresses as a broker's listeners are written, where they say what the properties say."""
        protocol = str(self.librdkafka.get("security.protocol", "plaintext"))
        brokers = [_BROKER.fullmatch(address.strip()) for address in self.bootstrap_servers.split(",")]
        for broker in filter(None, brokers):
            if (named := broker["protocol"] or protocol).lower() != protocol.lower():
                raise ValueError(
                    f"bootstrap_servers says {named}:// and security.protocol in [kafka.librdkafka] is {protocol}"
                )
        object.__setattr__(self, "bootstrap_servers", ",".join(broker["address"] for broker in brokers if broker))
        return self


class TopicsConfig(_Section):
    """The topics. Those that are missing are made where the broker allows it."""

    features: str = Field("features", description="what comes in")
    predictions: str = Field("predictions", description="what goes out")
    labels: str | None = Field(None, description="labels that come later, joined to their features by id")
    dead_letters: str = Field("", description="refused records; empty means dlq.<features>")
    partitions: int = Field(4, ge=1, le=10_000, description="partitions of a features topic that is made")

    @model_validator(mode="after")
    def _distinct(self) -> "TopicsConfig":
        if not self.dead_letters:
            object.__setattr__(self, "dead_letters", f"dlq.{self.features}")
        names = [self.features, self.predictions, self.dead_letters, *([] if self.labels is None else [self.labels])]
        if len(set(names)) < len(names):
            raise ValueError(f"features, predictions, dead_letters and labels must differ; they are {names}")
        return self


class RedisConfig(_Section):
    """Where the model is kept."""

    url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://, rediss:// or unix://, with the password in it",
    )
    timeout: Seconds = Field(3.0, description="how long one answer may take before the store counts as away")
    sign_key: SecretStr | None = Field(
        None,
        description="signs what is kept, and refuses all else; 16 bytes or more, best as ${file:/run/secrets/NAME}",
    )

    @property
    def signature(self) -> bytes:
        """The bytes of the key, none where nothing is signed."""
        return b"" if self.sign_key is None else self.sign_key.get_secret_value().encode()

    @field_validator("sign_key")
    @classmethod
    def _long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and 0 < len(value.get_secret_value().encode()) < SIGN_KEY_BYTES_MIN:
            raise ValueError(
                f"it has less than {SIGN_KEY_BYTES_MIN} bytes: make one with `openssl rand -hex 32`, "
                "or leave it out to sign nothing"
            )
        return value

    @field_validator("url")
    @classmethod
    def _scheme(cls, value: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(value.get_secret_value())
            port = parts.port
        except ValueError:
            # Its words quote what it took for the port or the host, which may be part of a password.
            raise ValueError(f"it is no address; {_ESCAPE}") from None
        if parts.scheme not in {"redis", "rediss", "unix"} or not (parts.hostname or parts.path) or port == 0:
            raise ValueError("it must be like redis://host:6379/0, rediss://… or unix:///path")
        if parts.scheme != "unix" and not _DATABASE.fullmatch(parts.path):
            raise ValueError(f"the database behind its host must be a number, as in redis://host:6379/0; {_ESCAPE}")
        if parts.fragment:
            raise ValueError(f"nothing may stand behind a # in it; {_ESCAPE}")
        for name, option in parse_qsl(parts.query, keep_blank_values=True):
            if name not in _OPTIONS:
                raise ValueError(f"behind its ? may stand {', '.join(sorted(_OPTIONS))}; {_ESCAPE}")
            if name in _NUMBERS and not re.fullmatch(r"\d{1,6}", option, re.ASCII):
                raise ValueError(f"{name} behind its ? must be a number")
        return value


class ModelConfig(_Section):
    """What learns."""

    factory: str = Field(
        "model:build", pattern=r"^[\w.]+:\w+$", description="module:function, looked up beside this file"
    )
    scope: Literal["partition", "key", "global"] = Field(
        "partition", description="one model for each partition, for each key, or for all workers together"
    )
    trusted_packages: tuple[str, ...] = Field(
        (), description="packages whose objects a River model makes only when it learns"
    )
    allow_pickle: bool = Field(
        False, description="pickle objects that decide themselves how they are saved; needs redis.sign_key"
    )
    compile: bool = Field(True, description="run what is known as compiled code (`headrace model explain`)")


class LabelsConfig(_Section):
    """How long features wait for labels that come later (topics.labels). The bounds are each partition's."""

    wait: Seconds = Field(86_400.0, description="how long features wait for their label, in event time (ts)")
    default: bool | int | float | str | None = Field(
        None, description="the label of features that got none in time; without it they are dropped"
    )
    corrections: bool = Field(False, description="whether a second, different label is learned, too")
    waiting_max: int = Field(1_000_000, ge=1, description="features and early labels that may wait")
    bytes_max: int = Field(1_000_000_000, ge=100_000, description="memory that they may take, in bytes")
    remembered_max: int = Field(100_000, ge=0, description="ids whose wait is over that are told from unknown ones")


class KeysConfig(_Section):
    """A model for every key (scope = "key")."""

    prior: bool = Field(False, description="whether a new key begins as the model of all keys stands, not from nothing")
    hot_max: int = Field(100_000, ge=1, description="models of one partition in memory; twice as many during a save")
    silent: Seconds | None = Field(
        None, description="how long a key may be silent, in event time, before it is forgotten; without it for ever"
    )


class DeliveryConfig(_Section):
    """What is promised."""

    guarantee: Literal["exactly-once", "at-least-once"] = Field(
        "exactly-once", description="at-least-once sends without transactions: faster, twice round a crash"
    )


class BatchConfig(_Section):
    """How much goes through at once."""

    records_max: int = Field(20_000, ge=1, le=100_000, description="records of one batch at the most")


class RecordsConfig(_Section):
    """What a record may be."""

    value_bytes_max: int = Field(262_144, ge=1, le=64_000_000, description="a larger value is a 400, code too_large")


class FeatureConfig(_Section):
    """One declared feature."""

    type: FeatureType = Field("number", description="number, integer, string or boolean")
    required: bool = Field(True, description="whether a record without it is a 400")
    nullable: bool = Field(False, description="whether null is taken; the model then gets None")
    min: float | None = Field(None, description="smallest value of a number")
    max: float | None = Field(None, description="largest value of a number")
    values: tuple[str, ...] | None = Field(None, description="the strings that may come")


class SchemaConfig(_Section):
    """What the features must look like. Without it any number, string or boolean is taken."""

    extra: bool = Field(True, description="whether features that are not declared are taken")
    features: dict[str, FeatureConfig] = Field(
        default_factory=dict, description="a table for each declared feature: [schema.features.NAME]"
    )


class DeadLettersConfig(_Section):
    """What becomes of refused records."""

    flood_guard: bool = Field(True, description="pause, instead of dead-lettering, when nearly everything is bad")
    flood_ratio: float = Field(0.9, gt=0, le=1, description="nearly everything: this share of the window")
    flood_window: int = Field(500, ge=10, le=1_000_000, description="records that the guard looks back on")
    replay_max: int = Field(3, ge=1, description="replays of one record before it is parked")


class SnapshotConfig(_Section):
    """When the model is saved."""

    interval: Seconds = Field(1.0, description="at least this long between two saves of a partition")
    records_max: int = Field(
        250_000, ge=1, description="records after which it is saved in any case: what a restart relearns"
    )
    keep: int = Field(3, ge=1, le=1_000, description="versions that are kept of each partition")


class HttpSinkConfig(_Section):
    """The optional HTTP sink."""

    url: str = Field(pattern=r"^https?://\S+$", repr=False, description="where each batch's predictions are POSTed")
    timeout: Seconds = Field(10.0, description="how long one answer may take")
    headers: dict[str, SecretStr] = Field(default_factory=dict, description="headers sent along, such as a token")

    @field_validator("url")
    @classmethod
    def _one_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            good = parts.hostname and parts.port != 0
        except ValueError:
            good = False
        # What is behind an unescaped / or # of a password would be taken for a path.
        if not good or parts.fragment or "@" in parts.path:
            raise ValueError(f"it must be like https://host:443/path; {_ESCAPE}")
        return value


class SinksConfig(_Section):
    """Where predictions go besides the topic."""

    http: HttpSinkConfig | None = Field(None, description="POST each batch as JSON lines: [sink.http]")


class MetricsConfig(_Section):
    """The Prometheus endpoint."""

    host: str = Field("127.0.0.1", description="address that the endpoint listens on")
    port: int = Field(0, ge=0, le=65_535, description="port of worker 0; the next workers take the next; 0 is off")


class LogConfig(_Section):
    """What the logs look like."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least that is logged")
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto is console on a terminal and JSON elsewhere"
    )


class MixConfig(_Section):
    """How workers share one model (scope = "global")."""

    interval: Annotated[str | float, BeforeValidator(interval_of)] = Field(
        1.0, description='the longest between two rounds, and oftener while the model is young; or "400 records"'
    )

    @property
    def records(self) -> int | None:
        """The interval in records, None where it is a time."""
        return records_of(self.interval)

    @property
    def seconds(self) -> float:
        """The longest time between two rounds, in seconds; of an interval in records it is that of who idles."""
        return float(duration_s(self.interval)) if self.records is None else _MIX_IDLE_S
