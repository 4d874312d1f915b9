"""Turns the errors of the Redis client into those of the store: away for now, or refused until something changes."""

import re
from collections.abc import Callable

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ClusterError,
    ConnectionError,  # noqa: A004 the library's name
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004 the library's name
    TryAgainError,
)

from headrace.state.store.store_errors import StoreAway, StoreDenied, StoreLoginRefused, StoreRefused

CLIENT_ERRORS = (RedisError, RedisClusterException, OSError)
"""All that a call of the client raises."""

# Errors of a server that can't serve now, and that pass by themselves. The client has classes for some and removes
# their codes from the text; an error inside a script has the code in the middle of the text.
_PASSING = (ClusterDownError, MasterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_PASSING_CODE = re.compile(r"(^|-)(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN) ")
_CERTIFICATE = ("CERTIFICATE_VERIFY_FAILED", "ALERT", "certificate")
_TLS_HINT = "check ssl_ca_certs, ssl_certfile and ssl_keyfile in [redis.client]"


def translate(error: Exception, *, wrong_key: Callable[[], str]) -> StoreAway | StoreRefused:
    """Return the error of the store; `wrong_key` names a key that is of another type than the pipeline wrote."""
    if isinstance(error, RedisClusterException) and isinstance(error.__cause__, CLIENT_ERRORS):
        # The cluster's own error only says that no node can be reached.
        error = error.__cause__
    text = str(error)
    if isinstance(error, AuthorizationError | NoPermissionError):
        return StoreDenied(f"the store refuses this client: {text}")
    # Where no sentinel names the primary, the error quotes those of the sentinels.
    if isinstance(error, AuthenticationError) or "AuthenticationError(" in text:
        return StoreLoginRefused(f"the store refuses this client: {text}")
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        hint = "write redis.url with redis:// instead of rediss://, or name the port that has TLS"
        return StoreLoginRefused(f"the store has no TLS at this port: {text}", hint=hint)
    if "SSL" in text and any(word in text for word in _CERTIFICATE):
        return StoreLoginRefused(f"the store's certificate, or this client's, is refused: {text}", hint=_TLS_HINT)
    if isinstance(error, ConnectionError | TimeoutError | OSError):
        return StoreAway(f"the store does not answer: {text}")
    if isinstance(error, ResponseError):
        return _of_answer(error, text, wrong_key)
    if "Cluster mode is not enabled" in text:
        hint = "write redis.url with redis:// instead of redis+cluster://"
        return StoreRefused("the store is no cluster, and redis.url says that it is", hint=hint)
    if isinstance(error, ClusterError):
        return StoreAway(f"the store's cluster moves the keys, or has not agreed on who has them: {text}")
    return StoreAway(f"the store failed: {text}")


def node_of_a_cluster(detail: str) -> StoreRefused:
    """Return the error of a plain client at a node of a cluster, which has only a part of the keys."""
    hint = "write redis.url with redis+cluster:// instead of redis://"
    return StoreRefused(f"the store is a node of a cluster: {detail}", hint=hint)


def _of_answer(error: ResponseError, text: str, wrong_key: Callable[[], str]) -> StoreAway | StoreRefused:
    """Return the error for an answer of the server."""
    if isinstance(error, _PASSING) or _PASSING_CODE.search(text):
        return StoreAway(f"the store can't serve: {text}")
    if isinstance(error, AskError) or text.startswith("CROSSSLOT"):
        return node_of_a_cluster(text)
    if "WRONGTYPE" in text:
        hint = f"delete {wrong_key()}; its content is learned again"
        return StoreRefused(f"a key of the pipeline is of another type: {text}", hint=hint)
    return StoreRefused(f"the store refuses the command: {text}")
