"""The store checks of `doctor`: can it be written, does it evict keys, and does it keep them over a restart."""

import contextlib
from typing import Any, cast

import msgspec
import redis
from redis.exceptions import ResponseError

from headrace.state.store.client_errors import node_of_a_cluster
from headrace.state.store.store import Store, plain_errors

_KEY_MS = 10_000


class StoreHealth(msgspec.Struct, frozen=True):
    """The server's name and settings. `server` is empty, `policy` and `persistent` are None when it does not say."""

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
    # The user may lack the right to INFO, since the pipeline itself does not need it.
    with contextlib.suppress(ResponseError):
        info = store.client.info()
    # The node may own the key's slot by chance. The pipeline then works until the slot moves.
    if info.get("cluster_enabled") and isinstance(store.client, redis.Redis):
        raise node_of_a_cluster("cluster_enabled is 1")
    version = info.get("valkey_version") or info.get("redis_version", "")
    return StoreHealth(
        server=f"{info.get('server_name', 'redis')} {version}" if info else "",
        policy=info.get("maxmemory_policy"),
        memory_bytes_max=int(info.get("maxmemory", 0)),
        persistent=True if info.get("aof_enabled") else _saves_dumps(store),
    )


def _saves_dumps(store: Store) -> bool | None:
    # Managed servers often forbid CONFIG.
    with contextlib.suppress(ResponseError):
        return bool(cast("dict[str, str]", store.client.config_get("save")).get("save"))
    return None
