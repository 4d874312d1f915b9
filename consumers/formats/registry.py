"""Asks a schema registry for schemas, and registers new ones, with the client of confluent_kafka.

The client needs an extra of Headrace, so it is imported when it is first used. It retries nothing here: who calls
decides when to try again.
"""

import contextlib
import importlib
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from headrace.consumers.formats.writer_schema import BYTES_MAX, REFERENCES_MAX, SchemaKind, WriterSchema

T = TypeVar("T")

TIMEOUT_S = 3.0
"""How long to wait for an answer unless `timeout` in `[registry.client]` says otherwise, in seconds."""
SCHEME_MOCK = "mock://"
ADDRESS_KEY = "registry.url"
"""The key of the configuration that holds the registry's address; errors name it."""

_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY, _SERVER_ERROR = 200, 401, 403, 404, 429, 500
_TIMED_OUT = 408
_EXTRAS: Mapping[SchemaKind, str] = {"AVRO": "avro", "PROTOBUF": "protobuf", "JSON": "json-schema"}
# A 404 without the code of a missing schema or subject may come from a proxy, or from a wrong path in the URL.
_MISSING_CODES = frozenset({40401, 40402, 40403})
# The client's code for an answer that is no JSON.
_NO_JSON = -1


class RegistryAway(Exception):
    """Raised when the schema registry does not answer, or can't serve now."""

    status = 503
    address_key = ADDRESS_KEY
    hint = "nothing is lost: records whose schema is not known wait for the registry; check registry.url"


class RegistryRefused(Exception):
    """Raised when the registry does not accept the client, or the client does not accept its properties."""

    status = 401
    address_key = ADDRESS_KEY
    hint = 'check registry.url and [registry.client], for example basic.auth.user.info = "USER:PASSWORD"'


class SchemaRefused(Exception):
    """Raised when the registry does not accept a schema, or does not have one that it should have."""

    status = 400

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class ExtraMissing(Exception):
    """Raised when a library is not installed that a format needs."""

    status = 503

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(f"{what} needs a library that is not installed")
        self.hint = f"install it: pip install 'headrace[{extra}]'"


def library(name: str, *, kind: SchemaKind) -> Any:
    """Import a library of an extra. Raises ExtraMissing."""
    try:
        with warnings.catch_warnings():
            # The registry client imports authlib, which sets a warning filter of its own. Import it first, so that the
            # filter below is the last one.
            with contextlib.suppress(ImportError):
                importlib.import_module("authlib.deprecate")
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise ExtraMissing(f"the format {_EXTRAS[kind]} ({name})", extra=_EXTRAS[kind]) from error


class Registry:
    """Read and register schemas at `url`; `properties` are passed on to confluent_kafka's client.

    Raises ExtraMissing and RegistryRefused.
    """

    def __init__(self, url: str, properties: Mapping[str, Any], *, kind: SchemaKind) -> None:
        self._kind: SchemaKind = kind
        self._module = library("confluent_kafka.schema_registry", kind=kind)
        options = {"timeout": TIMEOUT_S, **properties, "url": url, "max.retries": properties.get("max.retries", 0)}
        try:
            self._client = self._module.SchemaRegistryClient.new_client(options)
        except (ValueError, TypeError, OSError) as error:
            raise RegistryRefused(f"the client of the schema registry refuses its properties: {error}") from error

    def find(self, schema: str) -> WriterSchema | None:
        """Return the schema with an id (digits) or a GUID, with its references; None if the registry has none.

        Raises RegistryAway, RegistryRefused.
        """
        found = self._ask(
            lambda: (
                self._client.get_schema(int(schema)) if schema.isdigit() else self._client.get_schema_by_guid(schema)
            ),
            is_by_id=True,
        )
        return None if found is None else self._whole(found)

    def latest(self, subject: str) -> tuple[int, WriterSchema] | None:
        """Return the id and the schema of a subject's newest version; None if there is no such subject."""
        found = self._ask(lambda: self._client.get_latest_version(subject))
        return None if found is None else (found.schema_id, self._whole(found.schema))

    def enter(self, subject: str, schema: WriterSchema, *, register: bool) -> int:
        """Return the id of a schema under a subject; register it if that is allowed and it is not there.

        Raises SchemaRefused, RegistryAway, RegistryRefused.
        """
        wanted = self._module.Schema(schema.text, schema.kind)
        if register:
            found = self._ask(lambda: self._client.register_schema(subject, wanted))
            return int(found or 0)
        entered = self._ask(lambda: self._client.lookup_schema(subject, wanted))
        if entered is None:
            raise SchemaRefused(
                f"the registry has no schema for the predictions under {subject}",
                hint="set registry.register = true, or register the schema that `headrace doctor` prints",
            )
        return int(entered.schema_id)

    def check(self) -> None:
        """Check that the registry answers and accepts the client. Raises RegistryAway, RegistryRefused."""
        self._ask(self._client.get_subjects)

    def _whole(self, schema: Any) -> WriterSchema:
        references: dict[str, str] = {}
        self._add_references(schema.references or (), references)
        kind, text = schema.schema_type or "AVRO", schema.schema_str or ""
        if sum(map(len, references.values())) + len(text) > BYTES_MAX:
            return WriterSchema(f"{kind} with more than {BYTES_MAX:,} bytes", "")
        return WriterSchema(kind, text, tuple(references.items()))

    def _add_references(self, wanted: Any, found: dict[str, str]) -> None:
        """Add schemas by name, each after those that it refers to itself."""
        for reference in wanted:
            if reference.name in found or len(found) >= REFERENCES_MAX:
                continue
            version = self._ask(partial(self._client.get_version, reference.subject, reference.version, deleted=True))
            if version is None:
                raise RegistryAway(f"the registry has no version {reference.version} of {reference.subject}")
            found[reference.name] = ""
            self._add_references(version.schema.references or (), found)
            del found[reference.name]
            found[reference.name] = version.schema.schema_str or ""

    def _ask(self, call: Callable[[], T], *, is_by_id: bool = False) -> T | None:
        """Make a request; return None for a schema or a subject that is not there.

        If it asks for a schema by its id, each 404 with a body of JSON says so.
        """
        try:
            return call()
        except self._module.SchemaRegistryError as error:
            status, words = error.http_status_code, f"{error.error_message} (HTTP {error.http_status_code})"
            is_missing = error.error_code != _NO_JSON if is_by_id else error.error_code in _MISSING_CODES
            if status == _NOT_FOUND and is_missing:
                return None
            if status in {_UNAUTHORIZED, _FORBIDDEN}:
                raise RegistryRefused(
                    f"the schema registry refuses this client, see registry.client: {words}"
                ) from error
            if status in {_NOT_FOUND, _TIMED_OUT, _TOO_MANY} or status >= _SERVER_ERROR:
                raise RegistryAway(f"the schema registry can't serve: {words}") from error
            raise SchemaRefused(
                f"the schema registry refuses a request: {words}",
                hint="check the compatibility rule of the subject, and registry.url",
            ) from error
        except Exception as error:
            # The client lets the errors of its HTTP library, and of OAuth, through.
            raise RegistryAway(f"the schema registry does not answer: {type(error).__name__}: {error}") from error
