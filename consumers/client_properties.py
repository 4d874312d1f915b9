"""The librdkafka properties of the pipeline's consumers: the user's own, and those that the pipeline sets."""

import math
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException

BROKERS_KEY = "kafka.bootstrap_servers"
"""The key of the configuration that holds the brokers' addresses; errors name it."""

_OWNED = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # Also makes `committed` wait until an open transaction has ended.
    "isolation.level": "read_committed",
    # `earliest` would skip a range that retention deleted, and `latest` all unread records, both without an error.
    "auto.offset.reset": "error",
    # Reports the end of a partition even when only control records come before it.
    "enable.partition.eof": True,
}
OWNED_SETTINGS = frozenset(_OWNED) | {
    "bootstrap.servers",
    "group.id",
    "transactional.id",
    "enable.idempotence",
    "on_delivery",
    "logger",
    "error_cb",
    "oauth_cb",
    "stats_cb",
}
"""librdkafka properties that the pipeline sets; the configuration refuses them."""

RECONNECTION = {
    # Reconnect to a broker that is back within a second, not ten.
    "reconnect.backoff.max.ms": 1_000,
    # Give up a lost reply after this time, not after a minute.
    "socket.timeout.ms": 10_000,
    # A broker that starts may report no brokers at all, not even itself. Without a known broker for this time, the
    # client asks the bootstrap servers again; by default after five minutes.
    "metadata.recovery.rebootstrap.trigger.ms": 5_000,
    # Give up a lost first reply after this time, not after ten seconds.
    "api.version.request.timeout.ms": 5_000,
}
"""Properties by which a client finds its way back to the brokers soon."""

_CLASSIC = {
    "partition.assignment.strategy": "cooperative-sticky",
    # The partitions of a dead worker are idle for this time. librdkafka sends heartbeats from a thread of its own, so
    # a busy worker does not count as dead.
    "session.timeout.ms": 6_000,
    "heartbeat.interval.ms": 1_500,
}


class SettingsRefused(Exception):
    """Raised when librdkafka refuses the name or the value of a property."""

    status = 400
    hint = "correct it in [kafka.librdkafka]; librdkafka's CONFIGURATION.md lists every property"


class TokenMissing(Exception):
    """Raised when a client was given no token: the user's function for it failed, or took too long."""

    status = 503
    address_key = BROKERS_KEY
    hint = "check kafka.oauth"


def refusal(error: KafkaException) -> SettingsRefused | TokenMissing:
    """Return the error for a client that can't be made."""
    fault = error.args[0]
    # The client waits for its first token when it is made.
    kind = TokenMissing if fault.code() == KafkaError.SASL_AUTHENTICATION_FAILED else SettingsRefused
    return kind(fault.str())


def session_s(settings: Mapping[str, Any]) -> float:
    """Return how long the group waits for a silent member, in seconds.

    `inf` with the newer protocol: there the broker decides, and assigns partitions without an owner by itself.
    """
    if settings.get("group.protocol") == "consumer":
        return math.inf
    return float(settings.get("session.timeout.ms", _CLASSIC["session.timeout.ms"])) / 1_000


def outsider(settings: Mapping[str, Any], *, group: str, own: Mapping[str, Any]) -> Consumer:
    """Make a consumer that reads for a group and never joins it. Raises SettingsRefused, TokenMissing.

    The properties in `own` override all others.
    """
    try:
        return Consumer({**consumer_settings(settings, group=group), **own})
    except KafkaException as error:
        raise refusal(error) from error


def consumer_settings(settings: Mapping[str, Any], *, group: str) -> dict[str, Any]:
    """Return a consumer's properties: the user's own, and those of the pipeline that the group protocol allows."""
    classic = {} if settings.get("group.protocol") == "consumer" else _CLASSIC
    return {
        "fetch.wait.max.ms": 100,
        "queued.max.messages.kbytes": 32_768,
        # The client stops fetching for this time when its queue is full. In the default, one second, a stream of long
        # records learns the whole queue and then waits.
        "fetch.queue.backoff.ms": 10,
        **RECONNECTION,
        # Partitions that are added to the topic are read after about this time, by default after five minutes.
        "topic.metadata.refresh.interval.ms": 10_000,
        # The loop polls many times a second: a worker that delays a rebalance for longer hangs.
        "max.poll.interval.ms": 60_000,
        **classic,
        **settings,
        **_OWNED,
        "group.id": group,
    }
