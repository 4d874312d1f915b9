"""Redis as the keeper of snapshots: claim a shard, save its versions in one step, load the newest whole one.

What Redis has acknowledged it may still lose, so nothing here is the truth: the offsets that Kafka holds
are, and any snapshot at or below them is a valid start. The epoch keeps an owner that was replaced while it
slept from writing over its successor.

Keys of a shard, on one hash tag so that a script may touch them together on a cluster:
`<name>:{<name>/<partition>}:head` (epoch, version, offset, digest), `…:snapshots` (version to bytes) and
`…:notes` (version to what `model ls` shows).
"""

import functools
import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 the library's name
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004 the library's name
    TryAgainError,
)
from redis.retry import Retry

from state.snapshot import Snapshot, SnapshotError, decode, describe, encode

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_S = 3.0
"""How long one answer of the store may take, in seconds, before the store counts as away."""

# What a server answers that is there but can't serve for now; each passes without anyone's doing. The client
# has a class for some of them and takes their code off the text; a script's error has it in the middle.
_PASSING = (ClusterDownError, MasterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_PASSING_CODE = re.compile(r"(^|-)(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN) ")

_CLAIM = """
local epoch = math.max(tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0'), tonumber(ARGV[1])) + 1
redis.call('HSET', KEYS[1], 'epoch', epoch)
return epoch
"""

# A reply that is lost makes the client send the same save again; the digest tells that it is the same.
_SAVE = """
local held = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
local epoch, offset, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[6])
if held > epoch then return {-1, held} end
if redis.call('HGET', KEYS[1], 'digest') == ARGV[3] then
  return {tonumber(redis.call('HGET', KEYS[1], 'version')), held}
end
-- A store that runs full may have dropped the head and kept the snapshots: the new one must be the newest.
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
local kept = redis.call('HKEYS', KEYS[2])
for _, old in ipairs(kept) do version = math.max(version, tonumber(old)) end
version = version + 1
redis.call('HSET', KEYS[2], version, ARGV[4])
redis.call('HSET', KEYS[3], version, ARGV[5])
redis.call('HSET', KEYS[1], 'epoch', epoch, 'version', version, 'offset', offset, 'digest', ARGV[3])
for _, old in ipairs(kept) do
  if tonumber(old) <= version - keep then
    redis.call('HDEL', KEYS[2], old)
    redis.call('HDEL', KEYS[3], old)
  end
end
return {version, epoch}
"""


class StoreAway(Exception):
    """Raised when the store can't be reached or can't serve for now; the same call may work later."""

    status = 503
    hint = "nothing is lost: the pipeline waits for the store and goes on by itself"


class StoreFenced(Exception):
    """Raised when a newer owner has claimed the shard; this one must let go of it."""

    status = 409
    hint = "nothing to do: another worker has taken the partition over"


class StoreRefused(Exception):
    """Raised when the store turns the client away: a wrong password, or a command that it may not call."""

    status = 400
    hint = "check redis.url, the password in it and the user's rights (`headrace doctor` tells which)"


def plain_errors(call: Callable[P, T]) -> Callable[P, T]:
    """Turn what the client library raises into StoreAway and StoreRefused."""

    @functools.wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            raise StoreRefused(f"the store refuses this client: {error}") from error
        except (ConnectionError, TimeoutError, OSError) as error:
            raise StoreAway(f"the store does not answer: {error}") from error
        except ResponseError as error:
            if isinstance(error, _PASSING) or _PASSING_CODE.search(str(error)):
                raise StoreAway(f"the store can't serve: {error}") from error
            raise StoreRefused(f"the store does not take the command: {error}") from error
        except RedisError as error:
            raise StoreAway(f"the store failed: {error}") from error

    return guarded


class Found(msgspec.Struct):
    """What the store has of a shard: the newest usable snapshot and its version, or (None, 0).

    `faults` says of each newer one why it was passed over; `ahead` is the oldest of those that are whole and
    stand too far on.
    """

    snapshot: Snapshot | None = None
    version: int = 0
    faults: list[str] = msgspec.field(default_factory=list)
    ahead: Snapshot | None = None


class Store:
    """The snapshots of one pipeline, `name`, in the Redis at `url` (redis, rediss or unix)."""

    def __init__(self, url: str, *, name: str, keep: int = 3, timeout_s: float = TIMEOUT_S) -> None:
        self._name = name
        self._keep = keep
        self.client = connect(url, timeout_s=timeout_s)
        self._claim = self.client.register_script(_CLAIM)
        self._save = self.client.register_script(_SAVE)

    @plain_errors
    def ping(self) -> None:
        """Ask whether the store is there. Raises StoreAway or StoreRefused."""
        self.client.ping()

    @plain_errors
    def claim(self, partition: int, *, floor: int) -> int:
        """Become the owner of a shard: return an epoch above every earlier one and above `floor`."""
        return int(cast("int", self._claim(keys=[self._key(partition, "head")], args=[floor])))

    @plain_errors
    def save(self, snapshot: Snapshot) -> int:
        """Save a version in one atomic step and return its number. Raises StoreFenced, StoreAway."""
        sealed = encode(snapshot)
        answer = self._save(
            keys=[self._key(snapshot.partition, part) for part in ("head", "snapshots", "notes")],
            args=[
                snapshot.epoch,
                snapshot.offset,
                hashlib.sha256(sealed).hexdigest(),
                sealed,
                msgspec.json.encode({**describe(snapshot), "bytes": len(sealed)}),
                self._keep,
            ],
        )
        version, held = (int(part) for part in cast("list[int]", answer))
        if version < 0:
            raise StoreFenced(
                f"partition {snapshot.partition} belongs to epoch {held}; this worker has {snapshot.epoch}"
            )
        return version

    @plain_errors
    def load(self, partition: int, *, at_most: int, start: int | None = None) -> Found:
        """Find the newest whole snapshot whose offset is at most `at_most`.

        With `start`, one whose history began elsewhere is passed over: it is of a model that was left behind.
        """
        found = Found()
        for version in sorted(self._versions(partition), reverse=True):
            sealed = cast("bytes | None", self.client.hget(self._key(partition, "snapshots"), str(version)))
            if sealed is None:
                continue
            try:
                snapshot = decode(sealed)
            except SnapshotError as error:
                found.faults.append(f"version {version}: {error}")
                continue
            if start is not None and snapshot.start != start:
                found.faults.append(f"version {version}: of a history from {snapshot.start}, not from {start}")
                continue
            if snapshot.offset > at_most:
                found.faults.append(f"version {version}: at offset {snapshot.offset}, past {at_most}")
                found.ahead = snapshot
                continue
            found.version, found.snapshot = version, snapshot
            break
        return found

    @plain_errors
    def notes(self, partition: int) -> list[dict[str, Any]]:
        """Return what is known of each version of a shard, newest first, without loading any model."""
        notes = cast("dict[bytes, bytes]", self.client.hgetall(self._key(partition, "notes")))
        return [
            {"version": int(version), **msgspec.json.decode(note)}
            for version, note in sorted(notes.items(), key=lambda item: -int(item[0]))
        ]

    @plain_errors
    def partitions(self) -> list[int]:
        """Return the partitions that have a shard in the store, in order."""
        return sorted(set(self._partitions()))

    def _partitions(self) -> Iterator[int]:
        for key in self.client.scan_iter(match=f"{_escape(self._name)}:{{*}}:head", count=1_000):
            tag = bytes(key).decode().rpartition("}:")[0]
            yield int(tag.rpartition("/")[2])

    def _versions(self, partition: int) -> list[int]:
        return [int(v) for v in cast("list[bytes]", self.client.hkeys(self._key(partition, "snapshots")))]

    def _key(self, partition: int, part: str) -> str:
        return f"{self._name}:{{{self._name}/{partition}}}:{part}"


def connect(url: str, *, timeout_s: float) -> "redis.Redis":
    """Make a client that fails fast: the gate retries, so the client need not.

    One attempt more is made on a connection that broke while it lay idle. Raises StoreRefused for a URL
    that is none.
    """
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        )
    except ValueError as error:
        raise StoreRefused(f"redis.url is no address: {error}") from error


def _escape(name: str) -> str:
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in name)
