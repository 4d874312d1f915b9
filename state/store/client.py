"""Makes the client of a server, of a cluster or of a sentinel's service; none connects before its first call."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlencode

import redis
from redis.backoff import NoBackoff
from redis.cluster import REDIS_ALLOWED_KEYS, ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.exceptions import ConnectionError, NoScriptError, TimeoutError  # noqa: A004 the library's names
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from headrace.state.store.address import StoreAddress

# Properties that the address, `redis.timeout` or the pipeline itself sets, and those whose values are no plain ones.
_OWNED = """
    self host port db unix_socket_path socket_timeout socket_connect_timeout retry retry_on_timeout retry_on_error ssl
    connection_pool encoding encoding_errors decode_responses single_connection_client redis_connect_func
    credential_provider cache cache_config event_dispatcher maint_notifications_config driver_info legacy_responses
    oss_cluster_maint_notifications_handler socket_keepalive_options ssl_include_verify_flags ssl_exclude_verify_flags
    ssl_ocsp_context
"""
OWNED_OPTIONS = frozenset(_OWNED.split())
"""Properties of redis-py that a user may not set."""
CLIENT_OPTIONS = frozenset(inspect.signature(redis.Redis.__init__).parameters) - OWNED_OPTIONS
"""The properties of redis-py that a user may set."""
CLUSTER_OPTIONS = CLIENT_OPTIONS & frozenset(REDIS_ALLOWED_KEYS)
"""Those of them that the client of a cluster takes; it would ignore all others without an error."""


class Script:
    """A Lua script of a `client`. The server gets its checksum, and the text only if it does not know the script.

    The call names one key more than the script uses, which never exists. While a cluster moves a slot from one node to
    another, it refuses a script if one of its keys is not there, and so each of these scripts: none sees a half of a
    shard. The caller tries again, as in any outage.

    A script that `reads` only is called as such, so that a user without the right to write may call it.
    """

    def __init__(self, client: "redis.Redis", text: str, *, reads: bool = False) -> None:
        self._client = client
        self._reads = reads
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, *, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run the script and return its answer. All keys have the same hash tag."""
        words = [*keys, f"{keys[0].partition('}')[0]}}}:none", *args]
        client, count = self._client, len(keys) + 1
        try:
            return (client.evalsha_ro if self._reads else client.evalsha)(self._sha, count, *words)
        except NoScriptError:
            return (client.eval_ro if self._reads else client.eval)(self._text, count, *words)


class _Cluster:
    """The client of a cluster. When it is made it asks for the nodes, so it is made at the first call."""

    def __init__(self, make: Callable[[], RedisCluster]) -> None:
        self._make = make
        self._made: RedisCluster | None = None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)


class _Sentinel(redis.Redis):
    """A sentinel that keeps the error with which it did not answer; redis-py itself tells only its type."""

    fault: Exception | None = None

    def sentinel_masters(self) -> Any:
        """Return what the sentinel says of the primaries that it watches."""
        self.fault = None
        try:
            return super().sentinel_masters()
        except (ConnectionError, TimeoutError) as error:
            self.fault = error
            raise


class _Sentinels(Sentinel):
    """The sentinels of a service; where none of them names its primary, the error quotes theirs."""

    sentinels: list[_Sentinel]  # type: ignore[assignment]  # `make_client` makes them

    def discover_master(self, service_name: str) -> Any:
        """Return the address of the primary."""
        try:
            return super().discover_master(service_name)  # type: ignore[no-untyped-call]
        except MasterNotFoundError as error:
            faults = [f"{type(one.fault).__name__}({one.fault})" for one in self.sentinels if one.fault is not None]
            if not faults:
                raise
            raise ConnectionError(f"no sentinel names the primary of {service_name}: {', '.join(faults)}") from error


def make_client(
    address: StoreAddress, *, timeout_s: float, options: Mapping[str, Any], sentinel_options: Mapping[str, Any]
) -> "redis.Redis":
    """Make a client that fails fast, since the caller retries; only a broken connection is tried once more.

    `options` are further properties of the client, and `sentinel_options` those of the connections to the sentinels.
    """
    bounds = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    own = {**_options_of(address), **options, **bounds, "ssl": address.tls}
    if address.topology == "cluster":
        nodes = [ClusterNode(*host) for host in address.hosts]  # type: ignore[no-untyped-call]
        common = {**own, "startup_nodes": nodes, "retry": Retry(NoBackoff(), 1)}
        # The servers themselves refuse a slot without an owner, while all others can be used.
        common |= {"require_full_coverage": False}
        # Ask for the nodes after each error. By default redis-py does so after five, and a transaction counts its own,
        # which are two at most: it would connect to a dead primary for ever.
        common |= {"reinitialize_steps": 1}
        return cast("redis.Redis", _Cluster(lambda: RedisCluster(**common)))
    own |= {"db": address.database, "retry": Retry(NoBackoff(), 1, supported_errors=(ConnectionError,))}
    if address.topology == "sentinel":
        sentinels = {**sentinel_options, **bounds, "ssl": address.tls, "retry": Retry(NoBackoff(), 0)}
        if address.tls:
            # The sentinels mostly have certificates of the same authority as the servers that they watch.
            sentinels = {**{name: value for name, value in own.items() if name.startswith("ssl_")}, **sentinels}
        known: Any = _Sentinels([])  # type: ignore[no-untyped-call]
        known.sentinels = [_Sentinel(*host, **sentinels) for host in address.hosts]
        return cast("redis.Redis", known.master_for(address.service, **own))
    if address.path:
        return redis.Redis(unix_socket_path=address.path, **own)
    return redis.Redis(*address.hosts[0], **own)


def _options_of(address: StoreAddress) -> dict[str, Any]:
    """Return the properties in an address, in the types that the client wants."""
    user = {"username": address.username or None, "password": address.password or None}
    given = parse_url(f"redis://?{urlencode(address.options)}")  # type: ignore[no-untyped-call]
    return {name: value for name, value in {**user, **given}.items() if value is not None and name != "db"}
