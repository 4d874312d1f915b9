"""The mix in the store: one model of all workers, and how far into each partition it has come.

A contribution moves both in one script: the model, and the places of the partitions whose records it brought in. It
is taken only if each of these places is still where the contribution began, by an owner whose epoch is the newest, so
whatever is lost, late or sent twice, each record is in the mix once.

Keys, on one hash tag: `<name>:{<name>/global}:mix` (version, digest, sealed model), `…:places` (partition to place)
and `…:epochs` (partition to its owner's epoch).
"""

import hashlib
from collections.abc import Mapping
from typing import cast

import msgspec

from state.store import Store, StoreFenced, plain_errors

_SEAL_BYTES = 32

_CLAIM = """
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0') < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
return redis.call('HGET', KEYS[2], ARGV[1])
"""

# ARGV: version that it was mixed with, digest, sealed, then for each partition: number, epoch, place before, place now.
_SUBMIT = """
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
if redis.call('HGET', KEYS[1], 'digest') == ARGV[2] then return {version, 0} end
for i = 4, #ARGV, 4 do
  if tonumber(redis.call('HGET', KEYS[3], ARGV[i]) or '0') ~= tonumber(ARGV[i + 1]) then return {-1, ARGV[i]} end
  if (redis.call('HGET', KEYS[2], ARGV[i]) or '') ~= ARGV[i + 2] then return {-1, ARGV[i]} end
end
if version ~= tonumber(ARGV[1]) then return {0, version} end
redis.call('HSET', KEYS[1], 'version', version + 1, 'digest', ARGV[2], 'sealed', ARGV[3])
for i = 4, #ARGV, 4 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 3]) end
return {version + 1, 0}
"""

_CLEAR = """
if tonumber(redis.call('HGET', KEYS[1], 'version') or '0') ~= tonumber(ARGV[1]) then return 0 end
redis.call('HDEL', KEYS[1], 'digest', 'sealed')
redis.call('HSET', KEYS[1], 'version', tonumber(ARGV[1]) + 1)
redis.call('DEL', KEYS[2])
return 1
"""


class PoolDamaged(Exception):
    """Raised when the mix in the store is not whole, so that it must be learned again from the log."""

    status = 409
    hint = "nothing to do: the mix is cleared, and every partition is learned again"


class Place(msgspec.Struct, frozen=True, array_like=True):
    """How far the mix has come in a partition: the offset, and the version of the shard's snapshot of that moment."""

    offset: int
    version: int


class Mix(msgspec.Struct, frozen=True, array_like=True):
    """One model of all workers, as bytes, by what it was built (`spec`, `codec`), and how many examples are in it."""

    examples: int
    spec: str
    codec: str
    model: bytes


class Contribution(msgspec.Struct, frozen=True):
    """What moves in one partition: from the place before (None for its first) to the place now, by its owner."""

    epoch: int
    before: Place | None
    now: Place


class Pool:
    """The mix of one pipeline, `name`, in the Redis of `store`."""

    def __init__(self, store: Store, *, name: str) -> None:
        self._client = store.client
        self._keys = {part: f"{name}:{{{name}/global}}:{part}" for part in ("mix", "places", "epochs")}
        self._claim = self._client.register_script(_CLAIM)
        self._submit = self._client.register_script(_SUBMIT)
        self._clear = self._client.register_script(_CLEAR)

    @plain_errors
    def claim(self, partition: int, epoch: int) -> Place | None:
        """Become the owner of a partition, and return how far the mix has come in it. Raises StoreAway."""
        keys = [self._keys["epochs"], self._keys["places"]]
        packed = cast("bytes | None", self._claim(keys=keys, args=[partition, epoch]))
        return None if packed is None else msgspec.msgpack.decode(packed, type=Place)

    @plain_errors
    def version(self) -> int:
        """Return the number of the newest mix, 0 when there was none yet."""
        return int(cast("bytes | None", self._client.hget(self._keys["mix"], "version")) or 0)

    @plain_errors
    def load(self) -> tuple[int, Mix | None]:
        """Return the newest mix and its number; None when there is none. Raises StoreAway, PoolDamaged."""
        version, sealed = cast("list[bytes | None]", self._client.hmget(self._keys["mix"], ["version", "sealed"]))
        number = int(version or 0)
        if sealed is None:
            return number, None
        body = sealed[_SEAL_BYTES:]
        if hashlib.sha256(body).digest() != sealed[:_SEAL_BYTES]:
            raise PoolDamaged(f"mix {number}: its checksum does not match its bytes")
        return number, msgspec.msgpack.decode(body, type=Mix)

    @plain_errors
    def submit(self, mix: Mix, *, base: int, contributions: Mapping[int, Contribution]) -> int:
        """Put a mix in the place of mix number `base`; return its number, or 0 when there is a newer than that.

        Raises StoreFenced when a partition is another's by now, or its place is not what it was; and StoreAway.
        """
        body = msgspec.msgpack.encode(mix)
        sealed = hashlib.sha256(body).digest() + body
        # What it brings in is part of what it is: of two that differ in it alone, one is no repetition of the other.
        digest = hashlib.sha256(sealed + repr(sorted(contributions.items())).encode()).hexdigest()
        args: list[bytes | str | int] = [base, digest, sealed]
        for partition, contribution in contributions.items():
            before = b"" if contribution.before is None else msgspec.msgpack.encode(contribution.before)
            args += [partition, contribution.epoch, before, msgspec.msgpack.encode(contribution.now)]
        keys = [self._keys[part] for part in ("mix", "places", "epochs")]
        number, at = (int(part) for part in cast("list[int]", self._submit(keys=keys, args=args)))
        if number < 0:
            raise StoreFenced(f"partition {at} is another worker's by now, or the mix lost its place in it")
        return number

    @plain_errors
    def clear(self, version: int) -> None:
        """Begin anew from nothing, unless there is a newer mix than this version."""
        self._clear(keys=[self._keys["mix"], self._keys["places"]], args=[version])
