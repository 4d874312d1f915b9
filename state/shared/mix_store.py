"""Stores the mix, the one model of all workers, with the offset in each partition up to which it has learned.

One script saves a contribution: the new model and the new offsets. It is accepted only if each offset is still the one
from which the contribution began, and its worker has the newest epoch. So every record is in the mix once, even if
messages are lost, late or sent twice.

Keys, on one hash tag: `<name>:{<name>/global}:mix` (version, life, digest, sealed model), `…:places` (partition to
offset) and `…:epochs` (partition to its owner's epoch). The seal covers the mix's number and life, and the sealed bytes
also have all offsets: those of `…:places`, which the scripts read, must be the same.
"""

import hashlib
import itertools
import secrets
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from headrace.state.seal import UNREADABLE, Number, SealError
from headrace.state.store.client import Script
from headrace.state.store.lua_scripts import WHOLE
from headrace.state.store.store import Store, plain_errors
from headrace.state.store.store_errors import StoreFenced
from headrace.state.store.tables import whole

# Stands for an invalid number; below all valid ones.
_NO_NUMBER = -1

# ARGV: partition, epoch, and a stored value that is known not to be an owner's epoch.
_CLAIM = (
    WHOLE
    + """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if (whole(held) or 0) < tonumber(ARGV[2]) or held == ARGV[3] then
  held = ARGV[2]
  redis.call('HSET', KEYS[1], ARGV[1], held)
end
return {redis.call('HGET', KEYS[2], ARGV[1]), held}
"""
)

_VERSION = (
    WHOLE
    + """
local version = whole(redis.call('HGET', KEYS[1], 'version') or '0') or -1
"""
)

# ARGV: version and life of the mix that it was merged with, a life for the first mix, digest, sealed mix, then for each
# partition: number, epoch, offset before, offset now.
_SUBMIT = (
    _VERSION
    + """
local life = redis.call('HGET', KEYS[1], 'life') or ''
if redis.call('HGET', KEYS[1], 'digest') == ARGV[4] then return {version, 0} end
for i = 6, #ARGV, 4 do
  if whole(redis.call('HGET', KEYS[3], ARGV[i]) or '0') ~= tonumber(ARGV[i + 1]) then return {-1, ARGV[i]} end
  if (redis.call('HGET', KEYS[2], ARGV[i]) or '') ~= ARGV[i + 2] then return {-1, ARGV[i]} end
end
if version ~= tonumber(ARGV[1]) or life ~= ARGV[2] then return {0, version} end
if life == '' then redis.call('HSET', KEYS[1], 'life', ARGV[3]) end
redis.call('HSET', KEYS[1], 'version', version + 1, 'digest', ARGV[4], 'sealed', ARGV[5])
for i = 6, #ARGV, 4 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 3]) end
return {version + 1, 0}
"""
)

_CLEAR = (
    _VERSION
    + """
if version ~= tonumber(ARGV[1]) then return 0 end
redis.call('HDEL', KEYS[1], 'digest', 'sealed')
redis.call('HSET', KEYS[1], 'version', version + 1, 'life', ARGV[2])
redis.call('DEL', KEYS[2])
return 1
"""
)


class MixDamaged(Exception):
    """Raised when the mix in the store is damaged, or did not grow from the mix that this worker knows.

    `number` is the number of the mix in the store.
    """

    status = 409
    hint = "nothing to do: every partition is learned again from the offset that the mix has reached"

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.number = number


class MixOffset(msgspec.Struct, frozen=True, array_like=True):
    """The offset that the mix has reached in a partition, and the version of the shard's snapshot at that offset."""

    offset: Number
    version: Number


class Mix(msgspec.Struct, frozen=True, array_like=True):
    """The one model of all workers: its bytes, `spec` and `codec`, and the number of examples that it has learned."""

    examples: Number
    spec: str
    codec: str
    model: bytes


class _Whole(msgspec.Struct, frozen=True, array_like=True):
    """The content of the sealed bytes: a mix, and its offset in each partition."""

    mix: Mix
    places: dict[int, MixOffset]


class LoadedMix(msgspec.Struct, frozen=True):
    """The newest mix in the store, None if there is none, and its number (0 at first).

    `life` changes each time that the mix begins again from nothing; `digest` differs for two mixes with one number.
    `places` has the mix's offset in each partition.
    """

    number: int
    life: bytes
    digest: bytes
    mix: Mix | None
    places: Mapping[int, MixOffset] = {}


class Contribution(msgspec.Struct, frozen=True):
    """The records of one partition in a contribution: the offset before (None: its first) and the offset now."""

    epoch: int
    before: MixOffset | None
    now: MixOffset


class MixStore:
    """The mix of one pipeline, `name`, in the Redis of `store`."""

    def __init__(self, store: Store, *, name: str) -> None:
        self.store = store
        self._name = name
        self._client = store.client
        self._keys = {part: f"{name}:{{{name}/global}}:{part}" for part in ("mix", "places", "epochs")}
        self._claim = Script(self._client, _CLAIM)
        self._submit = Script(self._client, _SUBMIT)
        self._clear = Script(self._client, _CLEAR)

    @plain_errors
    def claim(self, partition: int, epoch: int) -> MixOffset | None:
        """Become the owner of a partition, and return the mix's offset in it. Raises StoreAway."""
        packed, held = self._claim_with(partition, epoch)
        if whole(held) != epoch and self.store.epoch(partition) == epoch:
            # The shard has no newer owner, so this value is not an owner's epoch.
            packed, _ = self._claim_with(partition, epoch, instead=held)
        return _place(packed)

    def _claim_with(self, partition: int, epoch: int, *, instead: bytes = b"") -> tuple[bytes | None, bytes]:
        keys = [self._keys["epochs"], self._keys["places"]]
        return cast("tuple[bytes | None, bytes]", self._claim(keys=keys, args=[partition, epoch, instead]))

    @plain_errors
    def newest(self, partitions: Sequence[int]) -> tuple[int, bytes, bytes, list[MixOffset | None]]:
        """Return the number, life and digest of the newest mix, and its offsets in these partitions."""
        commands = self._client.pipeline(transaction=True)
        commands.hmget(self._keys["mix"], ["version", "life", "digest"])
        if partitions:
            commands.hmget(self._keys["places"], [str(partition) for partition in partitions])
        [version, life, digest], *packed = commands.execute()
        places = [_place(place) for place in itertools.chain.from_iterable(packed)]
        return _number(version), life or b"", digest or b"", places

    @plain_errors
    def load(self) -> LoadedMix:
        """Return the newest mix. Raises StoreAway, MixDamaged."""
        commands = self._client.pipeline(transaction=True)
        commands.hmget(self._keys["mix"], ["version", "life", "digest", "sealed"])
        commands.hgetall(self._keys["places"])
        [version, life, digest, sealed], packed = commands.execute()
        number, life = _number(version), life or b""
        if number == _NO_NUMBER:
            raise MixDamaged(f"the number of the mix is {version[:40]!r}", number=number)
        if bool(packed) != (sealed is not None):
            raise MixDamaged(f"mix {number}: the model or its offsets are gone", number=number)
        if sealed is None:
            return LoadedMix(number, life, b"", None)
        try:
            body = self.store.seal.unwrap(sealed, *self._sealed_as(number, life))
            found = msgspec.msgpack.decode(body, type=_Whole)
        except SealError as error:
            raise MixDamaged(f"mix {number} can't be trusted: {error}", number=number) from error
        except UNREADABLE as error:
            raise MixDamaged(f"mix {number} can't be read: {error}", number=number) from error
        if {partition: _place(place) for partition, place in packed.items()} != {
            b"%d" % partition: place for partition, place in found.places.items()
        }:
            raise MixDamaged(f"mix {number}: the offsets are not those of the model", number=number)
        return LoadedMix(number, life, digest or b"", found.mix, found.places)

    @plain_errors
    def submit(self, mix: Mix, *, base: LoadedMix, contributions: Mapping[int, Contribution]) -> LoadedMix | None:
        """Replace the mix `base` by a new one, and return it; None when `base` is not the newest any more.

        Raises StoreFenced when a partition has a newer owner, or its offset has changed; and StoreAway.
        """
        life = base.life or secrets.token_hex(8).encode()
        places = {**base.places, **{partition: moved.now for partition, moved in contributions.items()}}
        body = msgspec.msgpack.encode(_Whole(mix, places))
        sealed = self.store.seal.wrap(body, *self._sealed_as(base.number + 1, life))
        # The digest covers the contributions, since a mix with other contributions is not a repetition of this one.
        digest = hashlib.sha256(sealed + repr(sorted(contributions.items())).encode()).hexdigest()
        args: list[bytes | str | int] = [base.number, base.life, life, digest, sealed]
        for partition, contribution in contributions.items():
            before = b"" if contribution.before is None else msgspec.msgpack.encode(contribution.before)
            args += [partition, contribution.epoch, before, msgspec.msgpack.encode(contribution.now)]
        keys = [self._keys[part] for part in ("mix", "places", "epochs")]
        number, at = (int(part) for part in cast("list[int]", self._submit(keys=keys, args=args)))
        if number < 0:
            raise StoreFenced(f"partition {at} now has another owner, or the mix lost its offset in it")
        return LoadedMix(number, life, digest.encode(), mix, places) if number else None

    @plain_errors
    def clear(self, version: int) -> None:
        """Delete the mix and begin again from nothing, unless its version is not this one any more."""
        keys = [self._keys["mix"], self._keys["places"]]
        self._clear(keys=keys, args=[version, secrets.token_hex(8)])

    def _sealed_as(self, number: int, life: bytes) -> tuple[str | int, ...]:
        return "mix", self._name, number, life.decode("latin-1")


def _number(version: bytes | None) -> int:
    if version is None:
        return 0
    found = whole(version)
    return _NO_NUMBER if found is None else found


def _place(packed: bytes | None) -> MixOffset | None:
    """Read an offset; an invalid one is None, and then does not match that of the mix."""
    try:
        return None if packed is None else msgspec.msgpack.decode(packed, type=MixOffset)
    except UNREADABLE:
        return None
