"""Reads JSON that is written with a schema registry, and validates it against its writer's JSON Schema."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from headrace.consumers.formats.registry import library
from headrace.consumers.formats.writer_schema import Absence, NotDecodable, SchemaUnusable, WriterSchema
from headrace.consumers.schema import DeclaredType

_TYPES: Mapping[str, DeclaredType] = {
    "number": "number", "integer": "integer", "string": "string", "boolean": "boolean",
}  # fmt: skip
_DEPTH_MAX = 64
_WORDS_CHARACTERS = 200


class JsonSchemaReader:
    """Validate values of one schema. Raises SchemaUnusable, ExtraMissing."""

    def __init__(self, schema: WriterSchema) -> None:
        self._library = library("jsonschema_rs", kind="JSON")
        try:
            self._schema = msgspec.json.decode(schema.text)
            known = {name: msgspec.json.decode(text) for name, text in schema.references}
            self._validator = self._library.validator_for(self._schema, retriever=partial(_retrieve, known))
        except Exception as error:
            # The parser and the library raise errors of many types.
            raise SchemaUnusable(f"its schema is not JSON Schema: {str(error)[:_WORDS_CHARACTERS]}") from error

    def read(self, payload: bytes, indexes: tuple[int, ...] = ()) -> Any:  # noqa: ARG002 those are Protobuf's
        """Return the value of a payload. Raises NotDecodable with the path of the first wrong field."""
        try:
            whole = msgspec.json.decode(payload)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise NotDecodable(f"the value is not JSON: {error}") from None
        try:
            self._validator.validate(whole)
        except self._library.ValidationError as error:
            names = [*error.instance_path, *([error.kind.property] if error.kind.name == "required" else [])]
            field = ".".join(map(str, names))
            raise NotDecodable(
                f"the value does not match its schema: {error.message[:_WORDS_CHARACTERS]}", field
            ) from None
        except ValueError as error:
            raise NotDecodable(f"its schema can't be applied: {str(error)[:_WORDS_CHARACTERS]}") from None
        return whole

    def accepts(self, payload: bytes) -> bool:
        """Tell whether `read` returns a value for a payload."""
        try:
            return bool(self._validator.is_valid(msgspec.json.decode(payload)))
        except (msgspec.DecodeError, ValueError, RecursionError):
            return False

    def declared(self, indexes: tuple[int, ...] = ()) -> Mapping[str, DeclaredType]:  # noqa: ARG002 those are Protobuf's
        """Return the types that the schema declares, by path; references are not followed."""
        found: dict[str, DeclaredType] = {}
        _declare(self._schema, "", found, 0)
        return found

    def optional(self, indexes: tuple[int, ...] = ()) -> Mapping[str, Absence]:  # noqa: ARG002 those are Protobuf's
        """Return the properties that may be null or are not required, by path; references are not followed."""
        found: dict[str, Absence] = {}
        _find_optional(self._schema, "", found, 0)
        return found


def _find_optional(node: Any, path: str, found: dict[str, Absence], depth: int) -> None:
    properties = node.get("properties") if isinstance(node, dict) else None
    if not isinstance(properties, dict) or depth > _DEPTH_MAX:
        return
    required = node.get("required")
    for name, inner in properties.items():
        where = f"{path}.{name}" if path else name
        kinds = inner.get("type") if isinstance(inner, dict) else None
        if kinds == "null" or (isinstance(kinds, list) and "null" in kinds):
            found[where] = "null"
        elif not isinstance(required, list) or name not in required:
            found[where] = "absent"
        _find_optional(inner, where, found, depth + 1)


def _declare(node: Any, path: str, found: dict[str, DeclaredType], depth: int) -> None:
    if not isinstance(node, dict) or depth > _DEPTH_MAX:
        return
    kinds = node.get("type")
    # A number that may also be text is declared as a number: `numbers = "parse"` reads both.
    named = [kind for kind in _TYPES if kind == kinds or (isinstance(kinds, list) and kind in kinds)]
    if path and named:
        found[path] = _TYPES[named[0]]
    properties = node.get("properties")
    for name, inner in properties.items() if isinstance(properties, dict) else ():
        _declare(inner, f"{path}.{name}" if path else name, found, depth + 1)


def _retrieve(known: Mapping[str, Any], address: str) -> Any:
    """Return a schema that another one refers to, by its name or by an address that ends with it; asks no server."""
    for name, found in known.items():
        if address == name or address.endswith(f"/{name}"):
            return found
    raise LookupError(f"the schema refers to {address}, which is not among its references")
