"""The configuration: defaults, then the TOML file, then the environment, then flags.

Every key has a description: `init` writes them as comments, and docs/configuration.md has them in tables. An unknown
key is an error that names the nearest known key.
"""

import difflib
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from headrace.consumers.consumer_errors import ConnectionFault, ConnectionFaults
from headrace.pipeline.config.lifecycle_section import ChallengerConfig, ChallengerName, PromotionConfig
from headrace.pipeline.config.page_section import PageConfig
from headrace.pipeline.config.record_sections import LabelsConfig, PredictionsConfig, RecordFormat, RecordsConfig
from headrace.pipeline.config.redaction import concealer, may_show, secrets_of
from headrace.pipeline.config.references import (
    FunctionMissing,
    ReferenceMissing,
    Resolved,
    load_function,
    resolve,
)
from headrace.pipeline.config.registry import RegistryConfig
from headrace.pipeline.config.sections import (
    BatchConfig,
    DeadLettersConfig,
    DeliveryConfig,
    FeatureConfig,
    KafkaConfig,
    KeysConfig,
    LogConfig,
    MetricsConfig,
    MixConfig,
    ModelConfig,
    QualityConfig,
    RedisConfig,
    SchemaConfig,
    SinksConfig,
    SnapshotConfig,
    TopicsConfig,
)
from headrace.pipeline.config.serve_section import ServeConfig
from headrace.pipeline.hinted_error import HintedError

ENV_PREFIX = "HEADRACE__"
DEFAULT_FILE = Path("headrace.toml")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
# Attributes that are not keys: no file may set them.
_OWN = ("directory", "secrets", "files")
# Properties of librdkafka that name a file; a client reads it only when it is made.
_FILE_PROPERTIES = tuple(f"ssl.{name}.location" for name in ("ca", "certificate", "key", "keystore", "crl"))
# A user may have several of each of these tables, and gives each one a name.
_NAMED = (FeatureConfig, ChallengerConfig)
_HINTS = {
    "extra_forbidden": "remove it",
    "missing": "add it",
}


class ConfigError(HintedError):
    """Raised when the configuration can't be used; the message names the key and its value.

    `others` are further errors of the same configuration.
    """

    others: tuple["ConfigError", ...] = ()


class Config(BaseSettings):
    """The whole configuration. `directory` is the file's directory, where the factory is looked up.

    `secrets` has the values that replaced references, by key, and `files` are the files that they were read from.
    """

    model_config = SettingsConfigDict(
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_prefix_target="all",
        env_nested_delimiter="__",
        case_sensitive=False,
        hide_input_in_errors=True,
    )

    name: str = Field(
        "headrace", description="Name of the consumer group. Transactional ids and Redis keys start with it."
    )
    kafka: KafkaConfig = KafkaConfig()  # type: ignore[call-arg]
    topics: TopicsConfig = TopicsConfig()  # type: ignore[call-arg]
    redis: RedisConfig = RedisConfig()  # type: ignore[call-arg]
    model: ModelConfig = ModelConfig()  # type: ignore[call-arg]
    challengers: dict[ChallengerName, ChallengerConfig] = Field(
        default_factory=dict, description="A table for each challenger: [challengers.NAME]."
    )
    promotion: PromotionConfig = PromotionConfig()  # type: ignore[call-arg]
    labels: LabelsConfig = LabelsConfig()  # type: ignore[call-arg]
    keys: KeysConfig = KeysConfig()  # type: ignore[call-arg]
    quality: QualityConfig = QualityConfig()  # type: ignore[call-arg]
    delivery: DeliveryConfig = DeliveryConfig()  # type: ignore[call-arg]
    batch: BatchConfig = BatchConfig()  # type: ignore[call-arg]
    records: RecordsConfig = RecordsConfig()  # type: ignore[call-arg]
    predictions: PredictionsConfig = PredictionsConfig()  # type: ignore[call-arg]
    # The name `schema` is taken by a method of pydantic's, so the file's key is its alias.
    schema_: SchemaConfig = Field(SchemaConfig(), alias="schema")  # type: ignore[call-arg]
    dlq: DeadLettersConfig = DeadLettersConfig()  # type: ignore[call-arg]
    snapshot: SnapshotConfig = SnapshotConfig()  # type: ignore[call-arg]
    registry: RegistryConfig = RegistryConfig()  # type: ignore[call-arg]
    sink: SinksConfig = SinksConfig()  # type: ignore[call-arg]
    metrics: MetricsConfig = MetricsConfig()  # type: ignore[call-arg]
    log: LogConfig = LogConfig()  # type: ignore[call-arg]
    mix: MixConfig = MixConfig()  # type: ignore[call-arg]
    page: PageConfig = PageConfig()  # type: ignore[call-arg]
    serve: ServeConfig = ServeConfig()  # type: ignore[call-arg]
    directory: Path = Field(Path(), exclude=True)
    secrets: dict[str, frozenset[str]] = Field(default_factory=dict, exclude=True, repr=False)
    files: frozenset[Path] = Field(frozenset(), exclude=True)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("a name has up to 100 letters, digits, dots, dashes and underscores")
        return value

    @model_validator(mode="after")
    def _keeps_enough(self) -> "Config":
        if self.model.scope == "global" and self.snapshot.keep == 1:
            raise ValueError(
                'snapshot.keep must be at least 2 with model.scope = "global": one version is being written'
            )
        return self

    @model_validator(mode="after")
    def _has_scope_for_challengers(self) -> "Config":
        if self.challengers and self.model.scope == "global":
            raise ValueError('challengers need model.scope = "partition" or "key"')
        return self

    @model_validator(mode="after")
    def _has_registry(self) -> "Config":
        forms = {"records": self.records.format, "labels": self.labels.format, "predictions": self.predictions.format}
        for key, form in forms.items():
            if form not in {"json", ""} and not self.registry.url:
                raise ValueError(f'{key}.format = "{form}" needs a schema registry: set registry.url')
        return self

    @model_validator(mode="after")
    def _has_one_kind_of_schemas(self) -> "Config":
        records, labels = self.records.format, self.label_format
        if labels != records and "json" not in {labels, records}:
            raise ValueError(
                f'labels.format = "{labels}" does not go with records.format = "{records}": labels that are not json '
                "have the format of the records; write both topics in one format, or one of them in json"
            )
        return self

    @cached_property
    def conceal(self) -> Callable[[str], str]:
        """A function that replaces the secrets of this configuration with `***` in a text."""
        headers = {} if self.sink.http is None else self.sink.http.headers
        return concealer(secrets_of(self, self.secrets), tokens=[v.get_secret_value() for v in headers.values()])

    @property
    def label_format(self) -> RecordFormat:
        """The format of the labels topic."""
        return self.labels.format or self.records.format

    @property
    def schema_format(self) -> RecordFormat:
        """The format of those records and labels that name a schema; json if neither do."""
        has_labels = self.records.format == "json" and self.topics.labels is not None
        return self.label_format if has_labels else self.records.format

    @property
    def control_topic(self) -> str:
        """The topic of the commands on models."""
        return f"control.{self.name}"

    @property
    def journal_topic(self) -> str:
        """The topic of the journal: each change of a model, with the offset from which it holds."""
        return f"journal.{self.name}"

    @property
    def librdkafka(self) -> dict[str, Any]:
        """The librdkafka properties of every client."""
        return {
            "bootstrap.servers": self.kafka.bootstrap_servers,
            "client.id": self.name,
            "allow.auto.create.topics": False,
            **self.kafka.librdkafka,
            **self._oauth,
            "error_cb": self.faults.note,
        }

    @cached_property
    def faults(self) -> ConnectionFaults:
        """The faults of the connections of all Kafka clients that are made with this configuration."""
        return ConnectionFaults()

    @cached_property
    def _oauth(self) -> dict[str, Any]:
        """The property with the user's function for tokens, if there is one. Raises ConfigError."""
        reference = self.kafka.oauth
        if reference is None:
            return {}
        try:
            function = load_function(reference, self.directory)
        except FunctionMissing as error:
            raise ConfigError(f"kafka.oauth = {reference!r} {error}", hint=error.hint) from error
        return {"sasl.mechanism": "OAUTHBEARER", "oauth_cb": partial(_token, function, self.faults)}

    @property
    def watched_files(self) -> frozenset[Path]:
        """The files whose content the clients take only when they are made: secrets, certificates and keys."""
        kafka = [self.kafka.librdkafka[name] for name in _FILE_PROPERTIES if name in self.kafka.librdkafka]
        return self.files | {Path(str(name)) for name in (*kafka, *self.redis.files)}

    @property
    def client_bytes_max(self) -> int:
        """The largest record in bytes that the client sends, whether or not the topic accepts a larger one."""
        return int(self.librdkafka.get("message.max.bytes", sys.maxsize))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the values from `load`, which has merged the sources."""
        return (init_settings,)


def _token(function: Callable[[str], tuple[str, float]], faults: ConnectionFaults, text: str) -> tuple[str, float]:
    """Call the user's function, and note its error: librdkafka only tells that there is no token."""
    try:
        token, expires_s = function(text)
        # The client ends the process for a token that is no text.
        if not isinstance(token, str):
            raise TypeError(f"the token is a {type(token).__name__} and no str")  # noqa: TRY301 as the function's errors
        return token, float(expires_s)
    except Exception as error:
        faults.keep(ConnectionFault(f"kafka.oauth failed: {type(error).__name__}: {error}", "token"))
        raise


def load(file: Path = DEFAULT_FILE, *, flags: Mapping[str, Any] | None = None) -> Config:
    """Load a file, then the environment, then flags (dotted keys), and replace references. Raises ConfigError."""
    return load_given(given(file, flags=flags), file)


def given(file: Path | None, *, flags: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a file, the environment and flags give, unchecked and with its references. Raises ConfigError."""
    tree = {} if file is None else read(file)
    _refuse_unknown_variables()
    return _merged(_merged(tree, _environment()), _nested(flags or {}))


def load_given(tree: Mapping[str, Any], file: Path) -> Config:
    """Return the configuration of a tree from `given`; paths are relative to the file's folder. Raises ConfigError."""
    directory = file.resolve().parent
    try:
        resolved = resolve(tree, directory)
    except ReferenceMissing as error:
        raise ConfigError(str(error), hint=error.hint) from None
    try:
        return Config(**{**resolved.tree, "directory": directory, "secrets": resolved.secrets, "files": resolved.files})
    except ValidationError as error:
        first, *others = [_readable(fault, file, resolved) for fault in error.errors()]
        first.others = tuple(others)
        raise first from error


def describe(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield every key with its default and its meaning."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        section = _section_of(field.annotation)
        if field.exclude:
            continue
        if section is not None:
            yield from describe(section, f"{key}.")
            continue
        yield key, field.get_default(call_default_factory=True), field.description or ""


def describe_tables(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every table with its meaning."""
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is not None:
            table = f"{prefix}{field.alias or name}"
            yield table, section.__doc__ or ""
            yield from describe_tables(section, f"{table}.")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel) and candidate not in _NAMED:
            return candidate
    return None


def read(file: Path) -> dict[str, Any]:
    """Read a file without interpreting its values. Raises ConfigError."""
    # This raises if the working folder is gone, which is another fault than a file that is missing in it.
    path = file.resolve()
    try:
        content = path.read_bytes()
        # An editor may have put a byte order mark before the first line.
        tree = tomllib.loads(content.decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no configuration at {file}",
            hint="make a project with `headrace init DIR`, or name one with -c",
        ) from error
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error}", hint="check the path and its permissions") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        if b"\0" in content:
            raise ConfigError(f"{file} is UTF-16 or UTF-32 text, or not text at all", hint="save it as UTF-8") from None
        if isinstance(error, UnicodeDecodeError):
            line = content.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{file} can't be read: line {line} is not UTF-8", hint="save it as UTF-8") from None
        raise ConfigError(f"{file} is not TOML: {error}", hint="correct the line that the message names") from error
    if own := next((name for name in _OWN if name in tree), None):
        raise ConfigError(f"{file}: the key {own} is not known", hint="remove it")
    return tree


def _environment() -> dict[str, Any]:
    try:
        return EnvSettingsSource(Config)()
    except SettingsError as error:
        lists = {key.upper().replace(".", "__") for key, default, _ in describe() if isinstance(default, tuple)}
        for variable, text in os.environ.items():
            if variable.upper().removeprefix(ENV_PREFIX) in lists and not text.lstrip().startswith("["):
                raise ConfigError(
                    f"the value of {variable} in the environment is not a list",
                    hint=f"""write it as JSON: {variable}='["FIRST", "SECOND"]'""",
                ) from None
        # The message names the table; its cause quotes the value, which may be a secret.
        table = re.search(r'field "(\w+)"', str(error))
        name = f"{ENV_PREFIX}{table[1].upper()}" if table else "a table"
        raise ConfigError(
            f"the value of {name} in the environment is not a JSON object",
            hint=f"write it as JSON, or give each key a variable of its own: {name}__KEY",
        ) from None


def _refuse_unknown_variables() -> None:
    known = {key.upper().replace(".", "__"): key for key, _, _ in describe()}
    tables = (
        "CHALLENGERS__",
        "KAFKA__LIBRDKAFKA__",
        "REDIS__CLIENT__",
        "REDIS__SENTINEL__",
        "REGISTRY__CLIENT__",
        "SCHEMA__FEATURES__",
        "SINK__HTTP__HEADERS__",
    )
    for variable in os.environ:
        name = variable.upper().removeprefix(ENV_PREFIX)
        if not variable.upper().startswith(ENV_PREFIX) or name in known or name.startswith(tables):
            continue
        if any(key.startswith(f"{name}__") for key in known):
            continue
        near = _nearest(name, list(known))
        raise ConfigError(f"the environment variable {variable} does not name a key", hint=near or "unset it")


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        name: _merged(low[name], high[name])
        for name in low.keys() & high.keys()
        if isinstance(low[name], Mapping) and isinstance(high[name], Mapping)
    }
    return {**low, **high, **both}


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flags.items():
        *path, leaf = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def _readable(fault: ErrorDetails, file: Path, given: Resolved) -> ConfigError:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return ConfigError(
            f"{file}: the key {key} is not known",
            hint=_nearest(key, _known_beside(key)) or "see `headrace init` for a file with every key",
        )
    # The message of a validator may quote the value of a reference.
    conceal = concealer(text for texts in given.secrets.values() for text in texts)
    return ConfigError(
        conceal(_say(fault, key, file, given)),
        hint=_HINTS.get(fault["type"], "correct the value; docs/configuration.md lists every key"),
    )


def _known_beside(key: str) -> list[str]:
    keys = [name for name, _, _ in describe()]
    feature = key.rpartition(".")[0]
    if feature.startswith("schema.features."):
        keys += [f"{feature}.{name}" for name in FeatureConfig.model_fields]
    if feature.startswith("challengers."):
        keys += [f"{feature}.factory", f"{feature}.from"]
    return keys + [name.rpartition(".")[0] for name in keys]


def _say(fault: ErrorDetails, key: str, file: Path, given: Resolved) -> str:
    words = fault["msg"].removeprefix("Value error, ")
    value = fault["input"]
    hidden = not may_show(key) or any(f"{name}.".startswith(f"{key}.") for name in given.secrets)
    # A value with an @ may be an address with a password.
    if not key or fault["type"] == "missing" or hidden or isinstance(value, Mapping | BaseModel) or "@" in str(value):
        return f"{file}: {key + ': ' if key else ''}{words}"
    return f"{file}: {key} = {value!r}: {words}"


def _nearest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key.lower(), [name.lower() for name in known], n=1, cutoff=0.5)
    if not near:
        return ""
    return f"did you mean {next(name for name in known if name.lower() == near[0])}?"
