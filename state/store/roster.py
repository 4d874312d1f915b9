"""Who is at work: each worker holds an ordinal, and says how it is, in one key that ends with it.

The ordinal makes the worker's transactional id, which must be its own while it lives and the same after a
restart; the key's time to live makes room for another when a machine is gone for good.
"""

from typing import Annotated, Any, cast

import msgspec

from headrace.state.seal import UNREADABLE, Seal
from headrace.state.store.store import Store, plain_errors

LEASE_MS = 15_000
"""How long a worker that says nothing keeps its ordinal, in milliseconds."""
WORKERS_MAX = 128

_KIND = "worker"
# So often may what stands there change while it is looked at; the next try comes in a second.
_LOOKS_MAX = 3

# ARGV: the note, the one that may be replaced, the lease. Gives the one that stands in the way.
_HOLD = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[2] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return ''
"""
_LEAVE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

_Small = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Number = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]


class _Note(msgspec.Struct):
    """What a note may hold, as far as anybody goes by it."""

    token: str
    place: str
    host: str = ""
    pid: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 1
    ordinal: _Small = 0
    started_ms: _Number = 0
    restarts: _Number = 0
    state: str = ""
    reason: str | None = None
    member: bool = False
    assigned: list[_Small] = []
    partitions: list[_Small] = []
    relearning: dict[str, _Number] = {}
    relearn_rate: float = 0.0
    epochs: dict[str, _Number] = {}
    quality: dict[Annotated[str, msgspec.Meta(pattern="^[0-9]{1,9}$")], dict[str, float | None]] = {}


class Roster:
    """The workers of one pipeline, as they announce themselves in the store."""

    def __init__(self, store: Store, *, name: str) -> None:
        self.store = store
        self._name = name
        # What a worker has written last, by its ordinal and token.
        self._held: dict[tuple[int, str], bytes] = {}
        self._hold = store.client.register_script(_HOLD)
        self._leave = store.client.register_script(_LEAVE)

    @plain_errors
    def hold(self, ordinal: int, note: dict[str, Any], *, evict_place: str = "") -> bool:
        """Take or renew an ordinal with the worker's note (its `token` and `place` among it).

        Returns False when another worker holds it. `evict_place` names the lock folder whose holder is known to
        be dead, because this worker has the lock that the holder had.
        """
        written = self.store.seal.sign_note(msgspec.json.encode(note), _KIND, self._name, ordinal)
        known = self._held.get((ordinal, note["token"]), b"")
        for _ in range(_LOOKS_MAX):
            held = cast("bytes", self._hold(keys=[self._key(ordinal)], args=[written, known, LEASE_MS]))
            if not held:
                self._held[ordinal, note["token"]] = written
                return True
            other = _read(held, self.store.seal, self._name, ordinal)
            # What is no note holds nothing.
            if other is not None and other["token"] != note["token"] and other["place"] != (evict_place or None):
                return False
            known = held
        return False

    @plain_errors
    def leave(self, ordinal: int, token: str) -> None:
        """Give the ordinal back, if it is still this worker's."""
        self._leave(keys=[self._key(ordinal)], args=[self._held.pop((ordinal, token), b"")])

    @plain_errors
    def notes(self) -> dict[int, dict[str, Any]]:
        """Return the note of every worker that is at work, by ordinal; what is no note is passed over."""
        keys = [self._key(ordinal) for ordinal in range(WORKERS_MAX)]
        held = cast("list[bytes | None]", self.store.client.mget(keys))
        read = {
            ordinal: _read(note, self.store.seal, self._name, ordinal)
            for ordinal, note in enumerate(held)
            if note is not None
        }
        return {ordinal: note for ordinal, note in read.items() if note is not None}

    def _key(self, ordinal: int) -> str:
        return f"{self._name}:{{{self._name}}}:worker:{ordinal}"


def _read(note: bytes, seal: Seal, name: str, ordinal: int) -> dict[str, Any] | None:
    """Read a note; None for what is none, or is not signed as it should be."""
    if not seal.check_note(note, _KIND, name, ordinal):
        return None
    try:
        msgspec.json.decode(note, type=_Note)
        told: dict[str, Any] = msgspec.json.decode(note)
    except UNREADABLE:
        return None
    told.pop("signature", None)
    return told
