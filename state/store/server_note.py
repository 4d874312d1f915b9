"""The note in the store that says that a server answers from the models: while it is there, they are saved more often.

It is the only thing that a server writes. It expires, so a server that dies needs no one to remove it. Of several
servers the one that wants the freshest models has the note. Key: `<name>:{<name>}:server`, on a user's list of rights.
"""

from typing import Annotated, cast

import msgspec

from headrace.state.seal import UNREADABLE, Seal
from headrace.state.store.store import Store, plain_errors

LEASE_MS = 5_000
"""A silent server counts as gone after this time, in milliseconds."""
FRESHNESS_MS_MIN = 1_000

_KIND = "server"


class _Note(msgspec.Struct, frozen=True):
    """How old a model may be, in milliseconds, when an answer is made from it."""

    freshness_ms: Annotated[int, msgspec.Meta(ge=FRESHNESS_MS_MIN, le=2**31)]


class ServerNote:
    """The note about the servers of the pipeline `name`."""

    def __init__(self, store: Store, *, name: str) -> None:
        self._store = store
        self._name = name

    @plain_errors
    def register(self, freshness_ms: int) -> None:
        """Say that a server is there, until `LEASE_MS` from now. Raises StoreAway, StoreRefused."""
        held = self.wanted_ms()
        if held is not None and held < freshness_ms:
            return
        note = self._store.seal.sign_note(msgspec.json.encode(_Note(freshness_ms)), _KIND, self._name)
        self._store.client.set(self._key, note, px=LEASE_MS)

    @plain_errors
    def wanted_ms(self) -> int | None:
        """Return how old a model may be, in milliseconds; None if no server is there, or the note is not valid."""
        note = cast("bytes | None", self._store.client.get(self._key))
        return None if note is None else _read(note, self._store.seal, self._name)

    @property
    def _key(self) -> str:
        return f"{self._name}:{{{self._name}}}:server"


def _read(note: bytes, seal: Seal, name: str) -> int | None:
    if not seal.check_note(note, _KIND, name):
        return None
    try:
        return msgspec.json.decode(note, type=_Note).freshness_ms
    except UNREADABLE:
        return None
