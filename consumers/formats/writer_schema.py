"""A writer's schema as one value, with the schemas that it refers to, so that no registry is needed to use it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

import msgspec

from headrace.consumers.schema import DeclaredType

SchemaKind = Literal["AVRO", "PROTOBUF", "JSON"]
"""The kinds of schemas, as a registry names them."""

BYTES_MAX = 1 << 20
"""The largest schema in bytes, its references included."""
REFERENCES_MAX = 1_000
NODES_MAX = 20_000
"""The number of fields that are looked at to find what a schema declares. Types in types may be far more paths."""

_decode = msgspec.msgpack.Decoder(
    tuple[str, str, Annotated[list[tuple[str, str]], msgspec.Meta(max_length=REFERENCES_MAX)]]
).decode


class WriterSchema(msgspec.Struct, frozen=True):
    """A schema as its registry gives it. `references` are names and texts, each after those that it refers to.

    `kind` is a `SchemaKind`, or another word if the schema can't be used.
    """

    kind: str
    text: str
    references: tuple[tuple[str, str], ...] = ()

    def pack(self) -> bytes:
        """Return the schema as bytes, for the store."""
        return msgspec.msgpack.encode((self.kind, self.text, self.references))

    @classmethod
    def unpack(cls, packed: bytes) -> "WriterSchema | None":
        """Return the schema of `pack`; None for other bytes: the registry is asked again."""
        try:
            kind, text, references = _decode(packed)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return cls(kind, text, tuple(references))


class SchemaUnusable(Exception):
    """Raised when a schema can't be parsed, or when values of it can't be read safely."""


class NotDecodable(Exception):
    """Raised when bytes are not of their schema; `field` is the path of the first wrong field, if it is known."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


Absence = Literal["null", "absent"]
"""How a value lacks a field that its schema does not demand."""


class PayloadReader(Protocol):
    """Reads values of one schema."""

    def read(self, payload: bytes, indexes: tuple[int, ...] = ()) -> Any:
        """Return a value without its frame: a dict, or another type if the schema says so. Raises NotDecodable."""

    def declared(self, indexes: tuple[int, ...] = ()) -> Mapping[str, DeclaredType]:
        """Return the types that the schema declares, by the path of the field with dots."""

    def optional(self, indexes: tuple[int, ...] = ()) -> Mapping[str, Absence]:
        """Return the fields that may be null or absent in the object around them, by path."""
