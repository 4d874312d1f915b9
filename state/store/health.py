"""What `doctor` asks of the store: may it be written, will it drop keys, does it keep them over a restart."""

import contextlib
from typing import Any, cast

import msgspec
from redis.exceptions import ResponseError

from headrace.state.store.store import Store, plain_errors

_KEY_MS = 10_000


class StoreHealth(msgspec.Struct, frozen=True):
    """What the server says of itself. `server` is empty, `policy` and `persistent` are None where it does not tell."""

    server: str
    policy: str | None
    memory_bytes_max: int
    persistent: bool | None


@plain_errors
def probe(store: Store, *, name: str) -> StoreHealth:
    """Write a key under the pipeline's name, delete it, and read the settings. Raises StoreAway, StoreRefused."""
    key = f"{name}:{{{name}}}:doctor"
    store.client.set(key, b"written by headrace doctor", px=_KEY_MS)
    store.client.delete(key)
    info: dict[str, Any] = {}
    # The pipeline itself does not need it, so a user may be without the right to it.
    with contextlib.suppress(ResponseError):
        info = store.client.info()
    version = info.get("valkey_version") or info.get("redis_version", "")
    return StoreHealth(
        server=f"{info.get('server_name', 'redis')} {version}" if info else "",
        policy=info.get("maxmemory_policy"),
        memory_bytes_max=int(info.get("maxmemory", 0)),
        persistent=True if info.get("aof_enabled") else _dumps(store),
    )


def _dumps(store: Store) -> bool | None:
    # A managed server often keeps CONFIG to itself.
    with contextlib.suppress(ResponseError):
        return bool(cast("dict[str, str]", store.client.config_get("save")).get("save"))
    return None
