"""The running workers: each holds an ordinal, and reports its status in a key that ends with the ordinal.

The ordinal is part of the worker's transactional id, which must be unique among running workers and the same after a
restart. The key expires, so that another worker can take the ordinal of a machine that never returns.
"""

import contextlib
from typing import Annotated, Any, cast

import msgspec

from headrace.state.seal import UNREADABLE, Seal
from headrace.state.store.client import Script
from headrace.state.store.store import Store, plain_errors

LEASE_MS = 15_000
"""A silent worker keeps its ordinal for this time, in milliseconds."""
WORKERS_MAX = 128

_KIND = "worker"
_REASON = "reason"
# The note may change between two tries; the worker's next call comes within a second.
_TRIES_MAX = 3

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
    """The fields of a note that are used, with the values that they may have."""

    token: str
    place: str
    host: str = ""
    pid: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 1
    ordinal: _Small = 0
    started_ms: _Number = 0
    restarts: _Number = 0
    state: str = ""
    since_ms: _Number = 0
    cause: str = ""
    reason: str | None = None
    member: bool = False
    assigned: list[_Small] = []
    partitions: list[_Small] = []
    relearning: dict[str, _Number] = {}
    relearn_rate: float = 0.0
    epochs: dict[str, _Number] = {}
    quality: dict[Annotated[str, msgspec.Meta(pattern="^[0-9]{1,9}$")], dict[str, float | None]] = {}


class _Reason(msgspec.Struct):
    """The reason for which a worker has stopped the stream."""

    reason: str


class Roster:
    """The notes in the store by which the workers of one pipeline know each other."""

    def __init__(self, store: Store, *, name: str) -> None:
        self.store = store
        self._name = name
        # The last note of each worker of this process, by its ordinal and token.
        self._held: dict[tuple[int, str], bytes] = {}
        self._hold = Script(store.client, _HOLD)
        self._leave = Script(store.client, _LEAVE)

    @plain_errors
    def hold(self, ordinal: int, note: dict[str, Any], *, evict_place: str = "") -> bool:
        """Take or renew an ordinal with the worker's note, which has its `token` and its lock folder (`place`).

        Returns False when another worker holds it. `evict_place` is a folder whose lock this worker has: a holder with
        that place is dead and loses the ordinal.
        """
        written = self.store.seal.sign_note(msgspec.json.encode(note), _KIND, self._name, ordinal)
        known = self._held.get((ordinal, note["token"]), b"")
        for _ in range(_TRIES_MAX):
            held = cast("bytes", self._hold(keys=[self._key(ordinal)], args=[written, known, LEASE_MS]))
            if not held:
                self._held[ordinal, note["token"]] = written
                return True
            other = _read(held, self.store.seal, self._name, ordinal)
            # An invalid note holds nothing.
            if other is not None and other["token"] != note["token"] and other["place"] != (evict_place or None):
                return False
            known = held
        return False

    @plain_errors
    def leave(self, ordinal: int, token: str) -> None:
        """Give the ordinal back, if this worker still has it."""
        self._leave(keys=[self._key(ordinal)], args=[self._held.pop((ordinal, token), b"")])

    @plain_errors
    def notes(self) -> dict[int, dict[str, Any]]:
        """Return the note of every running worker, by ordinal; skip invalid ones."""
        keys = [self._key(ordinal) for ordinal in range(WORKERS_MAX)]
        held = cast("list[bytes | None]", self.store.client.mget(keys))
        read = {
            ordinal: _read(note, self.store.seal, self._name, ordinal)
            for ordinal, note in enumerate(held)
            if note is not None
        }
        return {ordinal: note for ordinal, note in read.items() if note is not None}

    @plain_errors
    def keep_reason(self, ordinal: int, reason: str) -> None:
        """Keep the reason for which a worker stops the stream, beyond its end; "" removes it."""
        if not reason:
            self.store.client.hdel(self._reasons_key, str(ordinal))
            return
        note = self.store.seal.sign_note(msgspec.json.encode({"reason": reason}), _REASON, self._name, ordinal)
        self.store.client.hset(self._reasons_key, str(ordinal), note)

    @plain_errors
    def reasons(self) -> list[str]:
        """Return the reasons for which workers have stopped the stream; skip invalid ones."""
        ordinals = [str(ordinal) for ordinal in range(WORKERS_MAX)]
        found = cast("list[bytes | None]", self.store.client.hmget(self._reasons_key, ordinals))
        seal, name = self.store.seal, self._name
        notes = [note for n, note in enumerate(found) if note and seal.check_note(note, _REASON, name, n)]
        reasons: list[str] = []
        for note in notes:
            with contextlib.suppress(*UNREADABLE):
                reasons.append(msgspec.json.decode(note, type=_Reason).reason)
        return list(dict.fromkeys(reasons))

    @property
    def _reasons_key(self) -> str:
        return f"{self._name}:{{{self._name}}}:reasons"

    def _key(self, ordinal: int) -> str:
        return f"{self._name}:{{{self._name}}}:worker:{ordinal}"


def _read(note: bytes, seal: Seal, name: str, ordinal: int) -> dict[str, Any] | None:
    """Read a note; None for one that is invalid or not signed."""
    if not seal.check_note(note, _KIND, name, ordinal):
        return None
    try:
        msgspec.json.decode(note, type=_Note)
        fields: dict[str, Any] = msgspec.json.decode(note)
    except UNREADABLE:
        return None
    fields.pop("signature", None)
    return fields
