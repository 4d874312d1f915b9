import pytest
import redis
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ClusterError,
    MovedError,
    NoPermissionError,
    RedisClusterException,
    ResponseError,
    TryAgainError,
)

from headrace.state.store.client_errors import translate
from headrace.state.store.store_errors import StoreAway, StoreDenied, StoreLoginRefused, StoreRefused


def _unreachable(cause: Exception) -> Exception:
    """Make the error of a cluster of which no node can be reached."""
    error = RedisClusterException("Redis Cluster cannot be connected")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (redis.ConnectionError("refused"), StoreAway, "does not answer: refused"),
        (redis.TimeoutError("slow"), StoreAway, "does not answer: slow"),
        (OSError("broken"), StoreAway, "does not answer"),
        (ClusterDownError("CLUSTERDOWN The cluster is down"), StoreAway, "can't serve"),
        (TryAgainError("Multiple keys request during rehashing of slot"), StoreAway, "can't serve"),
        (ClusterError("TTL exhausted."), StoreAway, "moves the keys"),
        (RedisClusterException("could not agree on a valid slots cache"), StoreAway, "failed"),
        (_unreachable(redis.ConnectionError("refused")), StoreAway, "does not answer: refused"),
        (_unreachable(AuthenticationError("WRONGPASS")), StoreLoginRefused, "refuses this client"),
        (_unreachable(RedisClusterException("Cluster mode is not enabled on this node")), StoreRefused, "no cluster"),
        (AuthenticationError("WRONGPASS"), StoreLoginRefused, "refuses this client"),
        (redis.ConnectionError("No master found : AuthenticationError('x')"), StoreLoginRefused, "refuses this client"),
        (redis.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] expired"), StoreLoginRefused, "certificate"),
        (redis.ConnectionError("[SSL: WRONG_VERSION_NUMBER] wrong"), StoreLoginRefused, "no TLS at this port"),
        (NoPermissionError("no permissions to run the 'get' command"), StoreDenied, "refuses this client"),
        (MovedError("7 127.0.0.1:1"), StoreRefused, "node of a cluster"),
        (ResponseError("WRONGTYPE Operation against a key"), StoreRefused, "another type"),
        (ResponseError("ERR unknown command"), StoreRefused, "refuses the command"),
        (ResponseError("ERR script: -OOM command not allowed"), StoreAway, "can't serve"),
    ],
)
def test_each_error_of_the_client_says_whether_to_wait_or_what_to_change(
    error: Exception, kind: type[Exception], words: str
) -> None:
    found = translate(error, wrong_key=lambda: "the key k")
    assert type(found) is kind
    assert words in str(found)


def test_the_hint_names_the_key_of_the_wrong_type_and_the_form_of_the_address() -> None:
    hints = {
        "WRONGTYPE x": "delete the key k",
        "CROSSSLOT Keys in request don't hash to the same slot": "redis+cluster:// instead of redis://",
    }
    for text, hint in hints.items():
        assert hint in translate(ResponseError(text), wrong_key=lambda: "the key k").hint
