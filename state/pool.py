"""The mix in the store: one model of all workers, and how far into each partition it has come.

A contribution moves both in one script: the model, and the places of the partitions whose records it brought in. It
is taken only if each of these places is still where the contribution began, by an owner whose epoch is the newest, so
whatever is lost, late or sent twice, each record is in the mix once.

Keys, on one hash tag: `<name>:{<name>/global}:mix` (version, digest, sealed model), `…:places` (partition to place)
and `…:epochs` (partition to its owner's epoch).
"""

import hashlib
import itertools
import secrets
from collections.abc import Mapping, Sequence
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

# ARGV: version and life that it was mixed with, a life for the first mix, digest, sealed, then for each partition:
# number, epoch, place before, place now.
_SUBMIT = """
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
local life = redis.call('HGET', KEYS[1], 'life') or ''
if redis.call('HGET', KEYS[1], 'digest') == ARGV[4] then return {version, 0} end
for i = 6, #ARGV, 4 do
  if tonumber(redis.call('HGET', KEYS[3], ARGV[i]) or '0') ~= tonumber(ARGV[i + 1]) then return {-1, ARGV[i]} end
  if (redis.call('HGET', KEYS[2], ARGV[i]) or '') ~= ARGV[i + 2] then return {-1, ARGV[i]} end
end
if version ~= tonumber(ARGV[1]) or life ~= ARGV[2] then return {0, version} end
if life == '' then redis.call('HSET', KEYS[1], 'life', ARGV[3]) end
redis.call('HSET', KEYS[1], 'version', version + 1, 'digest', ARGV[4], 'sealed', ARGV[5])
for i = 6, #ARGV, 4 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 3]) end
return {version + 1, 0}
"""

_CLEAR = """
if tonumber(redis.call('HGET', KEYS[1], 'version') or '0') ~= tonumber(ARGV[1]) then return 0 end
redis.call('HDEL', KEYS[1], 'digest', 'sealed')
redis.call('HSET', KEYS[1], 'version', tonumber(ARGV[1]) + 1, 'life', ARGV[2])
redis.call('DEL', KEYS[2])
return 1
"""


class PoolDamaged(Exception):
    """Raised when the mix in the store is not whole, or not the one that this worker's model grew from.

    `number` is that of the mix that was found.
    """

    status = 409
    hint = "nothing to do: every partition is learned again from where the mix stands"

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.number = number


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


class Found(msgspec.Struct, frozen=True):
    """What the store has: the number of the newest mix, 0 for none yet, and the mix, None where there is none.

    `life` is another each time that the mix begins anew; `digest` tells two mixes of one number apart.
    """

    number: int
    life: bytes
    digest: bytes
    mix: Mix | None


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
    def look(self, partitions: Sequence[int]) -> tuple[int, bytes, bytes, list[Place | None]]:
        """Return the number, life and digest of the newest mix, and how far it has come in these partitions."""
        asked = self._client.pipeline(transaction=True)
        asked.hmget(self._keys["mix"], ["version", "life", "digest"])
        if partitions:
            asked.hmget(self._keys["places"], [str(partition) for partition in partitions])
        [version, life, digest], *packed = asked.execute()
        places = [
            None if place is None else msgspec.msgpack.decode(place, type=Place)
            for place in itertools.chain.from_iterable(packed)
        ]
        return int(version or 0), life or b"", digest or b"", places

    @plain_errors
    def load(self) -> Found:
        """Return the newest mix. Raises StoreAway, PoolDamaged."""
        asked = self._client.pipeline(transaction=True)
        asked.hmget(self._keys["mix"], ["version", "life", "digest", "sealed"])
        asked.exists(self._keys["places"])
        [version, life, digest, sealed], has_places = asked.execute()
        number = int(version or 0)
        if bool(has_places) != (sealed is not None):
            raise PoolDamaged(f"mix {number}: the model or the places are gone", number=number)
        if sealed is None:
            return Found(number, life or b"", b"", None)
        body = sealed[_SEAL_BYTES:]
        if hashlib.sha256(body).digest() != sealed[:_SEAL_BYTES]:
            raise PoolDamaged(f"mix {number}: its checksum does not match its bytes", number=number)
        return Found(number, life or b"", digest or b"", msgspec.msgpack.decode(body, type=Mix))

    @plain_errors
    def submit(self, mix: Mix, *, base: Found, contributions: Mapping[int, Contribution]) -> Found | None:
        """Put a mix in the place of the one that was found, and return it; None when there is a newer one by now.

        Raises StoreFenced when a partition is another's by now, or its place is not what it was; and StoreAway.
        """
        body = msgspec.msgpack.encode(mix)
        sealed = hashlib.sha256(body).digest() + body
        # What it brings in is part of what it is: of two that differ in it alone, one is no repetition of the other.
        digest = hashlib.sha256(sealed + repr(sorted(contributions.items())).encode()).hexdigest()
        life = base.life or secrets.token_hex(8).encode()
        args: list[bytes | str | int] = [base.number, base.life, life, digest, sealed]
        for partition, contribution in contributions.items():
            before = b"" if contribution.before is None else msgspec.msgpack.encode(contribution.before)
            args += [partition, contribution.epoch, before, msgspec.msgpack.encode(contribution.now)]
        keys = [self._keys[part] for part in ("mix", "places", "epochs")]
        number, at = (int(part) for part in cast("list[int]", self._submit(keys=keys, args=args)))
        if number < 0:
            raise StoreFenced(f"partition {at} is another worker's by now, or the mix lost its place in it")
        return Found(number, life, digest.encode(), mix) if number else None

    @plain_errors
    def clear(self, version: int) -> None:
        """Begin anew from nothing, unless there is another mix by now than this version."""
        keys = [self._keys["mix"], self._keys["places"]]
        self._clear(keys=keys, args=[version, secrets.token_hex(8)])
