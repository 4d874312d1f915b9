"""Keeps the schemas of records in the store, so that records can be read while their registry is away.

An id names the same schema for ever, so nothing here is ever replaced. What is read back may have been written by
anybody: a wrong seal means that it is not there.

An id that the registry did not know was refused, and may be known later. A model that is learned again must refuse the
same records, so the end offset of the last batch in which they were refused is kept, too.

Keys: `<name>:{<name>}:schemas` (id to the sealed schema) and `<name>:{<name>/<partition>}:unknown` (log and id to the
sealed offset).
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from headrace.state.seal import SealError
from headrace.state.store.store import Store, plain_errors
from headrace.state.store.tables import whole

_SCHEMA, _UNKNOWN = "schema", "unknown"


class SchemaStore:
    """The schemas of the pipeline `name`, as the bytes that its consumer makes of them."""

    def __init__(self, store: Store, *, name: str) -> None:
        self.store = store
        self._name = name
        self._seal = store.seal

    @plain_errors
    def find(self, schemas: Sequence[str]) -> dict[str, bytes]:
        """Return those of the schemas that are kept, by id. Raises StoreAway."""
        sealed = cast("list[bytes | None]", self.store.client.hmget(self._key, list(schemas))) if schemas else []
        found = {}
        for schema, one in zip(schemas, sealed, strict=True):
            if (body := self._open(one, _SCHEMA, schema)) is not None:
                found[schema] = body
        return found

    @plain_errors
    def keep(self, schema: str, body: bytes) -> None:
        """Keep a schema. Raises StoreAway."""
        self.store.client.hset(self._key, schema, self._seal.wrap(body, _SCHEMA, schema))

    @plain_errors
    def unknown(self, partition: int) -> dict[str, int]:
        """Return the offsets below which ids were refused, by the name of the log and the id. Raises StoreAway."""
        fields = cast("dict[bytes, bytes]", self.store.client.hgetall(self._partition_key(partition)))
        found = {}
        for field, sealed in fields.items():
            name = field.decode(errors="replace")
            if (until := whole(self._open(sealed, _UNKNOWN, partition, name))) is not None:
                found[name] = until
        return found

    @plain_errors
    def keep_unknown(self, partition: int, offsets: Mapping[str, int]) -> None:
        """Keep the offsets below which ids were refused. Raises StoreAway."""
        sealed = {name: self._seal.wrap(b"%d" % until, _UNKNOWN, partition, name) for name, until in offsets.items()}
        self.store.client.hset(self._partition_key(partition), mapping=cast("dict[Any, Any]", sealed))

    def _open(self, sealed: bytes | None, *place: str | int) -> bytes | None:
        try:
            return None if sealed is None else self._seal.unwrap(sealed, *place)
        except SealError:
            return None

    @property
    def _key(self) -> str:
        return f"{self._name}:{{{self._name}}}:schemas"

    def _partition_key(self, partition: int) -> str:
        return f"{self._name}:{{{self._name}/{partition}}}:unknown"
