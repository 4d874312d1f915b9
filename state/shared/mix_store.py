"""The mix in the store: one model of all workers, and how far into each partition it has come.

A contribution moves both in one script: the model, and the places of the partitions whose records it brought in. It
is taken only if each of these places is still where the contribution began, by an owner whose epoch is the newest, so
whatever is lost, late or sent twice, each record is in the mix once.

Keys, on one hash tag: `<name>:{<name>/global}:mix` (version, digest, sealed model), `…:places` (partition to place)
and `…:epochs` (partition to its owner's epoch). What is sealed says of which number and life the mix is, and holds the
places of all partitions: those of `…:places`, by which the scripts go, are believed where they are the same.
"""

import hashlib
import itertools
import secrets
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from headrace.state.seal import UNREADABLE, Number, SealError
from headrace.state.store.lua_scripts import WHOLE
from headrace.state.store.store import Store, plain_errors
from headrace.state.store.store_errors import StoreFenced
from headrace.state.store.tables import whole

# What is found where a number should be is this one, below all that there are.
_NO_NUMBER = -1

# ARGV: partition, epoch, and what is known to be no owner's epoch, whatever it is.
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

# ARGV: version and life that it was mixed with, a life for the first mix, digest, sealed, then for each partition:
# number, epoch, place before, place now.
_VERSION = (
    WHOLE
    + """
local version = whole(redis.call('HGET', KEYS[1], 'version') or '0') or -1
"""
)

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
    """Raised when the mix in the store is not whole, or not the one that this worker's model grew from.

    `number` is that of the mix that was found.
    """

    status = 409
    hint = "nothing to do: every partition is learned again from where the mix stands"

    def __init__(self, message: str, *, number: int) -> None:
        super().__init__(message)
        self.number = number


class MixOffset(msgspec.Struct, frozen=True, array_like=True):
    """How far the mix has come in a partition: the offset, and the version of the shard's snapshot of that moment."""

    offset: Number
    version: Number


class Mix(msgspec.Struct, frozen=True, array_like=True):
    """One model of all workers, as bytes, by what it was built (`spec`, `codec`), and how many examples are in it."""

    examples: Number
    spec: str
    codec: str
    model: bytes


class _Whole(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed: a mix, and how far it has come in each partition."""

    mix: Mix
    places: dict[int, MixOffset]


class LoadedMix(msgspec.Struct, frozen=True):
    """What the store has: the number of the newest mix, 0 for none yet, and the mix, None where there is none.

    `life` is another each time that the mix begins anew; `digest` tells two mixes of one number apart. `places` tells
    how far the mix has come in each partition.
    """

    number: int
    life: bytes
    digest: bytes
    mix: Mix | None
    places: Mapping[int, MixOffset] = {}


class Contribution(msgspec.Struct, frozen=True):
    """What moves in one partition: from the place before (None for its first) to the place now, by its owner."""

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
        self._claim = self._client.register_script(_CLAIM)
        self._submit = self._client.register_script(_SUBMIT)
        self._clear = self._client.register_script(_CLEAR)

    @plain_errors
    def claim(self, partition: int, epoch: int) -> MixOffset | None:
        """Become the owner of a partition, and return how far the mix has come in it. Raises StoreAway."""
        packed, held = self._take(partition, epoch)
        if whole(held) != epoch and self.store.epoch(partition) == epoch:
            # The shard has no newer owner: something else has been written there.
            packed, _ = self._take(partition, epoch, instead=held)
        return _place(packed)

    def _take(self, partition: int, epoch: int, *, instead: bytes = b"") -> tuple[bytes | None, bytes]:
        keys = [self._keys["epochs"], self._keys["places"]]
        return cast("tuple[bytes | None, bytes]", self._claim(keys=keys, args=[partition, epoch, instead]))

    @plain_errors
    def look(self, partitions: Sequence[int]) -> tuple[int, bytes, bytes, list[MixOffset | None]]:
        """Return the number, life and digest of the newest mix, and how far it has come in these partitions."""
        asked = self._client.pipeline(transaction=True)
        asked.hmget(self._keys["mix"], ["version", "life", "digest"])
        if partitions:
            asked.hmget(self._keys["places"], [str(partition) for partition in partitions])
        [version, life, digest], *packed = asked.execute()
        places = [_place(place) for place in itertools.chain.from_iterable(packed)]
        return _number(version), life or b"", digest or b"", places

    @plain_errors
    def load(self) -> LoadedMix:
        """Return the newest mix. Raises StoreAway, MixDamaged."""
        asked = self._client.pipeline(transaction=True)
        asked.hmget(self._keys["mix"], ["version", "life", "digest", "sealed"])
        asked.hgetall(self._keys["places"])
        [version, life, digest, sealed], packed = asked.execute()
        number, life = _number(version), life or b""
        if number == _NO_NUMBER:
            raise MixDamaged(f"the number of the mix is {version[:40]!r}", number=number)
        if bool(packed) != (sealed is not None):
            raise MixDamaged(f"mix {number}: the model or the places are gone", number=number)
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
            raise MixDamaged(f"mix {number}: the places are not those of the model", number=number)
        return LoadedMix(number, life, digest or b"", found.mix, found.places)

    @plain_errors
    def submit(self, mix: Mix, *, base: LoadedMix, contributions: Mapping[int, Contribution]) -> LoadedMix | None:
        """Put a mix in the place of the one that was found, and return it; None when there is a newer one by now.

        Raises StoreFenced when a partition is another's by now, or its place is not what it was; and StoreAway.
        """
        life = base.life or secrets.token_hex(8).encode()
        places = {**base.places, **{partition: moved.now for partition, moved in contributions.items()}}
        body = msgspec.msgpack.encode(_Whole(mix, places))
        sealed = self.store.seal.wrap(body, *self._sealed_as(base.number + 1, life))
        # What it brings in is part of what it is: of two that differ in it alone, one is no repetition of the other.
        digest = hashlib.sha256(sealed + repr(sorted(contributions.items())).encode()).hexdigest()
        args: list[bytes | str | int] = [base.number, base.life, life, digest, sealed]
        for partition, contribution in contributions.items():
            before = b"" if contribution.before is None else msgspec.msgpack.encode(contribution.before)
            args += [partition, contribution.epoch, before, msgspec.msgpack.encode(contribution.now)]
        keys = [self._keys[part] for part in ("mix", "places", "epochs")]
        number, at = (int(part) for part in cast("list[int]", self._submit(keys=keys, args=args)))
        if number < 0:
            raise StoreFenced(f"partition {at} is another worker's by now, or the mix lost its place in it")
        return LoadedMix(number, life, digest.encode(), mix, places) if number else None

    @plain_errors
    def clear(self, version: int) -> None:
        """Begin anew from nothing, unless there is another mix by now than this version."""
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
    """Read a place; what is none is as good as no place, and is found not to be that of the mix."""
    try:
        return None if packed is None else msgspec.msgpack.decode(packed, type=MixOffset)
    except UNREADABLE:
        return None
