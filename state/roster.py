"""Who is at work: each worker holds an ordinal, and says how it is, in one key that ends with it.

The ordinal makes the worker's transactional id, which must be its own while it lives and the same after a
restart; the key's time to live makes room for another when a machine is gone for good.
"""

from typing import Any, cast

import msgspec

from state.store import Store, plain_errors

LEASE_MS = 15_000
"""How long a worker that says nothing keeps its ordinal, in milliseconds."""
WORKERS_MAX = 128

_HOLD = """
local held = redis.call('GET', KEYS[1])
if held then
  local note = cjson.decode(held)
  if note['token'] ~= ARGV[2] and not (ARGV[4] ~= '' and note['place'] == ARGV[4]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1
"""
_LEAVE = """
local held = redis.call('GET', KEYS[1])
if held and cjson.decode(held)['token'] == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class Roster:
    """The workers of one pipeline, as they announce themselves in the store."""

    def __init__(self, store: Store, *, name: str) -> None:
        self._store = store
        self._name = name
        self._hold = store.client.register_script(_HOLD)
        self._leave = store.client.register_script(_LEAVE)

    @plain_errors
    def hold(self, ordinal: int, note: dict[str, Any], *, evict_place: str = "") -> bool:
        """Take or renew an ordinal with the worker's note (its `token` and `place` among it).

        Returns False when another worker holds it. `evict_place` names the lock folder whose holder is known to
        be dead, because this worker has the lock that the holder had.
        """
        key = self._key(ordinal)
        args = [msgspec.json.encode(note), note["token"], LEASE_MS, evict_place]
        return bool(self._hold(keys=[key], args=args))

    @plain_errors
    def leave(self, ordinal: int, token: str) -> None:
        """Give the ordinal back, if it is still this worker's."""
        self._leave(keys=[self._key(ordinal)], args=[token])

    @plain_errors
    def notes(self) -> dict[int, dict[str, Any]]:
        """Return the note of every worker that is at work, by ordinal."""
        keys = [self._key(ordinal) for ordinal in range(WORKERS_MAX)]
        held = cast("list[bytes | None]", self._store.client.mget(keys))
        return {ordinal: msgspec.json.decode(note) for ordinal, note in enumerate(held) if note is not None}

    def _key(self, ordinal: int) -> str:
        return f"{self._name}:{{{self._name}}}:worker:{ordinal}"
