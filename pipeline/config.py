"""The configuration: defaults, then the TOML file, then the environment, then flags.

Every key says what it is for in its description; `init` writes them out as comments and the README's table is
tested against them. An unknown key is an error that names the nearest known one.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from consumers.schema import FeatureType
from consumers.settings import OWNED_SETTINGS
from pipeline.duration import duration_s, interval_of, records_of

ENV_PREFIX = "HEADRACE__"
DEFAULT_FILE = Path("headrace.toml")
# So often looks who has nothing to bring in.
_MIX_IDLE_S = 1.0
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
# No key of the file can be called so: tables are split at dots.
_FLAGS = "flags."
_SECRET = ("redis.url", "sink.http.headers")
_HINTS = {
    "extra_forbidden": "remove it",
    "missing": "add it",
}


class ConfigError(Exception):
    """Raised when the configuration can't be used; the message names the key and its value."""

    status = 400

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


Seconds = Annotated[float, BeforeValidator(duration_s), Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Kafka(_Section):
    """Where Kafka is."""

    bootstrap_servers: str = Field("127.0.0.1:9092", description="host:port of one broker or more, with commas")
    librdkafka: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="any librdkafka property, passed on as it is, except the few that the pipeline owns",
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(","):
            host, colon, port = address.strip().rpartition(":")
            if not (colon and host and port.isdigit() and 0 < int(port) < 65_536):  # noqa: PLR2004 ports end
                raise ValueError(f"{address.strip()!r} is not host:port")
        return value

    @field_validator("librdkafka")
    @classmethod
    def _not_owned(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in OWNED_SETTINGS:
                raise ValueError(f"{name} is the pipeline's own to set; take it out")
        return value


class Topics(_Section):
    """The topics. Those that are missing are made where the broker allows it."""

    features: str = Field("features", description="what comes in")
    predictions: str = Field("predictions", description="what goes out")
    labels: str | None = Field(None, description="labels that come later, joined to their features by id")
    dead_letters: str = Field("", description="refused records; empty means dlq.<features>")
    partitions: int = Field(4, ge=1, le=10_000, description="partitions of a features topic that is made")

    @model_validator(mode="after")
    def _distinct(self) -> "Topics":
        if not self.dead_letters:
            object.__setattr__(self, "dead_letters", f"dlq.{self.features}")
        names = [self.features, self.predictions, self.dead_letters, *([] if self.labels is None else [self.labels])]
        if len(set(names)) < len(names):
            raise ValueError(f"features, predictions, dead_letters and labels must differ; they are {names}")
        return self


class RedisAddress(_Section):
    """Where the model is kept."""

    url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://, rediss:// or unix://, with the password in it",
    )
    timeout: Seconds = Field(3.0, description="how long one answer may take before the store counts as away")

    @field_validator("url")
    @classmethod
    def _scheme(cls, value: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(value.get_secret_value())
            port = parts.port
        except ValueError as error:
            raise ValueError(f"it is no address: {error}") from error
        if parts.scheme not in {"redis", "rediss", "unix"} or not (parts.hostname or parts.path) or port == 0:
            raise ValueError("it must be like redis://host:6379/0, rediss://… or unix:///path")
        return value


class Model(_Section):
    """What learns."""

    factory: str = Field(
        "model:build", pattern=r"^[\w.]+:\w+$", description="module:function, looked up beside this file"
    )
    scope: Literal["partition", "key", "global"] = Field(
        "partition", description="one model for each partition, for each key, or for all workers together"
    )
    trusted_packages: tuple[str, ...] = Field(
        (), description="packages beyond River and numpy whose classes a snapshot may hold"
    )
    compile: bool = Field(True, description="run what is known as compiled code (`headrace model explain`)")


class LabelWait(_Section):
    """How long features wait for labels that come later (topics.labels). The bounds are each partition's."""

    wait: Seconds = Field(86_400.0, description="how long features wait for their label, in event time (ts)")
    default: bool | int | float | str | None = Field(
        None, description="the label of features that got none in time; without it they are dropped"
    )
    corrections: bool = Field(False, description="whether a second, different label is learned, too")
    waiting_max: int = Field(1_000_000, ge=1, description="features and early labels that may wait")
    bytes_max: int = Field(1_000_000_000, ge=100_000, description="memory that they may take, in bytes")
    remembered_max: int = Field(100_000, ge=0, description="ids whose wait is over that are told from unknown ones")


class Keys(_Section):
    """A model for every key (scope = "key")."""

    prior: bool = Field(False, description="whether a new key begins as the model of all keys stands, not from nothing")
    hot_max: int = Field(100_000, ge=1, description="models of one partition in memory; twice as many during a save")
    silent: Seconds | None = Field(
        None, description="how long a key may be silent, in event time, before it is forgotten; without it for ever"
    )


class Delivery(_Section):
    """What is promised."""

    guarantee: Literal["exactly-once", "at-least-once"] = Field(
        "exactly-once", description="at-least-once sends without transactions: faster, twice round a crash"
    )


class Batches(_Section):
    """How much goes through at once."""

    records_max: int = Field(20_000, ge=1, le=100_000, description="records of one batch at the most")


class Records(_Section):
    """What a record may be."""

    value_bytes_max: int = Field(262_144, ge=1, le=64_000_000, description="a larger value is a 400, code too_large")


class FeatureSchema(_Section):
    """One declared feature."""

    type: FeatureType = Field("number", description="number, integer, string or boolean")
    required: bool = Field(True, description="whether a record without it is a 400")
    nullable: bool = Field(False, description="whether null is taken; the model then gets None")
    min: float | None = Field(None, description="smallest value of a number")
    max: float | None = Field(None, description="largest value of a number")
    values: tuple[str, ...] | None = Field(None, description="the strings that may come")


class Schema(_Section):
    """What the features must look like. Without it any number, string or boolean is taken."""

    extra: bool = Field(True, description="whether features that are not declared are taken")
    features: dict[str, FeatureSchema] = Field(
        default_factory=dict, description="a table for each declared feature: [schema.features.NAME]"
    )


class DeadLetters(_Section):
    """What becomes of refused records."""

    flood_guard: bool = Field(True, description="pause, instead of dead-lettering, when nearly everything is bad")
    flood_ratio: float = Field(0.9, gt=0, le=1, description="nearly everything: this share of the window")
    flood_window: int = Field(500, ge=10, le=1_000_000, description="records that the guard looks back on")
    replay_max: int = Field(3, ge=1, description="replays of one record before it is parked")


class Snapshots(_Section):
    """When the model is saved."""

    interval: Seconds = Field(1.0, description="at least this long between two saves of a partition")
    records_max: int = Field(
        250_000, ge=1, description="records after which it is saved in any case: what a restart relearns"
    )
    keep: int = Field(3, ge=1, le=1_000, description="versions that are kept of each partition")


class HttpSink(_Section):
    """The optional HTTP sink."""

    url: str = Field(pattern=r"^https?://\S+$", description="where each batch's predictions are POSTed")
    timeout: Seconds = Field(10.0, description="how long one answer may take")
    headers: dict[str, SecretStr] = Field(default_factory=dict, description="headers sent along, such as a token")


class Sinks(_Section):
    """Where predictions go besides the topic."""

    http: HttpSink | None = Field(None, description="POST each batch as JSON lines: [sink.http]")


class Metrics(_Section):
    """The Prometheus endpoint."""

    host: str = Field("127.0.0.1", description="address that the endpoint listens on")
    port: int = Field(0, ge=0, le=65_535, description="port of worker 0; the next workers take the next; 0 is off")


class Logs(_Section):
    """What the logs look like."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least that is logged")
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto is console on a terminal and JSON elsewhere"
    )


class Mix(_Section):
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


class Config(BaseSettings):
    """The whole configuration. `directory` is where the file stands: the factory is looked up there."""

    model_config = SettingsConfigDict(
        extra="forbid", env_prefix=ENV_PREFIX, env_prefix_target="all", env_nested_delimiter="__", case_sensitive=False
    )

    name: str = Field("headrace", description="the consumer group; transactional ids and Redis keys start with it")
    kafka: Kafka = Kafka()  # type: ignore[call-arg]
    topics: Topics = Topics()  # type: ignore[call-arg]
    redis: RedisAddress = RedisAddress()  # type: ignore[call-arg]
    model: Model = Model()  # type: ignore[call-arg]
    labels: LabelWait = LabelWait()  # type: ignore[call-arg]
    keys: Keys = Keys()  # type: ignore[call-arg]
    delivery: Delivery = Delivery()  # type: ignore[call-arg]
    batch: Batches = Batches()  # type: ignore[call-arg]
    records: Records = Records()  # type: ignore[call-arg]
    # The name `schema` is taken by a method of pydantic's, so the file's key is its alias.
    schema_: Schema = Field(Schema(), alias="schema")  # type: ignore[call-arg]
    dlq: DeadLetters = DeadLetters()  # type: ignore[call-arg]
    snapshot: Snapshots = Snapshots()  # type: ignore[call-arg]
    sink: Sinks = Sinks()  # type: ignore[call-arg]
    metrics: Metrics = Metrics()  # type: ignore[call-arg]
    log: Logs = Logs()  # type: ignore[call-arg]
    mix: Mix = Mix()  # type: ignore[call-arg]
    directory: Path = Field(Path(), exclude=True)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("a name has up to 100 letters, digits, dots, dashes and underscores")
        return value

    @model_validator(mode="after")
    def _keeps_enough(self) -> "Config":
        if self.model.scope == "global" and self.snapshot.keep == 1:
            raise ValueError('snapshot.keep: with model.scope = "global" at least 2, as one is in the making')
        return self

    @property
    def librdkafka(self) -> dict[str, Any]:
        """The properties that every client gets."""
        return {
            "bootstrap.servers": self.kafka.bootstrap_servers,
            "client.id": self.name,
            "allow.auto.create.topics": False,
            **self.kafka.librdkafka,
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the flags win over the environment, and that over the file. Both come as init arguments."""
        assert isinstance(init_settings, InitSettingsSource)
        flags = init_settings.init_kwargs.pop(_FLAGS, {})
        return InitSettingsSource(settings_cls, init_kwargs=flags), env_settings, init_settings


def load(file: Path = DEFAULT_FILE, *, flags: Mapping[str, Any] | None = None) -> Config:
    """Load a file, then the environment, then flags (dotted keys). Raises ConfigError."""
    tree = _read(file)
    _refuse_unknown_variables()
    try:
        config = Config(**{**tree, "directory": file.resolve().parent, _FLAGS: _nested(flags or {})})
    except ValidationError as error:
        raise _readable(error, file) from error
    return config


def describe(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield every key with its default and what it is for."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        section = _section_of(field.annotation)
        if field.exclude:
            continue
        if section is not None:
            yield from describe(section, f"{key}.")
            continue
        yield key, field.get_default(call_default_factory=True), field.description or ""


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel) and candidate is not FeatureSchema:
            return candidate
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no configuration at {file}",
            hint="make a project with `headrace init DIR`, or name one with -c",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} can't be read: {error}", hint="check the path and its permissions") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}", hint="mend the line that it names") from error


def _refuse_unknown_variables() -> None:
    known = {key.upper().replace(".", "__"): key for key, _, _ in describe()}
    tables = ("KAFKA__LIBRDKAFKA__", "SCHEMA__FEATURES__", "SINK__HTTP__HEADERS__")
    for variable in os.environ:
        name = variable.upper().removeprefix(ENV_PREFIX)
        if not variable.upper().startswith(ENV_PREFIX) or name in known or name.startswith(tables):
            continue
        if any(key.startswith(f"{name}__") for key in known):
            continue
        near = _nearest(name, list(known))
        raise ConfigError(f"the environment variable {variable} names no key", hint=near or "unset it")


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flags.items():
        *path, leaf = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def _readable(error: ValidationError, file: Path) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"{file}: the key {key} is not known",
            hint=_nearest(key, _known_beside(key)) or "see `headrace init` for a file with every key",
        )
    return ConfigError(
        _say(first, key, file), hint=_HINTS.get(first["type"], "mend the value; README.md lists every key")
    )


def _known_beside(key: str) -> list[str]:
    keys = [name for name, _, _ in describe()]
    feature = key.rpartition(".")[0]
    if feature.startswith("schema.features."):
        keys += [f"{feature}.{name}" for name in FeatureSchema.model_fields]
    return keys + [name.rpartition(".")[0] for name in keys]


def _say(first: ErrorDetails, key: str, file: Path) -> str:
    words = first["msg"].removeprefix("Value error, ")
    if not key or first["type"] == "missing":
        return f"{file}: {key + ': ' if key else ''}{words}"
    value = first["input"]
    if key.startswith(_SECRET):
        return f"{file}: {key}: {words}"
    return f"{file}: {key} = {_shown(value)}: {words}"


def _shown(value: Any) -> str:
    return "(a table)" if isinstance(value, Mapping | BaseModel) else repr(value)


def _nearest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key.lower(), [name.lower() for name in known], n=1, cutoff=0.5)
    if not near:
        return ""
    return f"did you mean {next(name for name in known if name.lower() == near[0])}?"
