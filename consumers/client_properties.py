"""librdkafka's properties as the pipeline's consumers have them: the user's own, and the few that it sets itself."""

import math
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException

_OWNED = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # Also makes the committed offsets stable: without it a transaction that is still open is not waited for.
    "isolation.level": "read_committed",
    # Earliest would skip a range that retention took, and latest would jump to the end, both in silence.
    "auto.offset.reset": "error",
    # Tells where a partition ends even where nothing but control records lies between here and there.
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
    "stats_cb",
}
"""librdkafka properties that the pipeline sets itself; the configuration refuses them by name."""

_CLASSIC = {
    "partition.assignment.strategy": "cooperative-sticky",
    # How long a dead worker's partitions lie idle. Heartbeats come from librdkafka's own thread, so a busy
    # worker is not taken for a dead one.
    "session.timeout.ms": 6_000,
    "heartbeat.interval.ms": 1_500,
}


class SettingsRefused(Exception):
    """Raised when librdkafka does not take a property, by its name or by its value."""

    status = 400
    hint = "mend it in [kafka.librdkafka]; librdkafka's CONFIGURATION.md lists every property"


def session_s(settings: Mapping[str, Any]) -> float:
    """Return how long the group waits for a member that is silent, in seconds.

    With the newer protocol it is for ever: there the broker decides, and hands over by itself what nobody has.
    """
    if settings.get("group.protocol") == "consumer":
        return math.inf
    return float(settings.get("session.timeout.ms", _CLASSIC["session.timeout.ms"])) / 1_000


def outsider(settings: Mapping[str, Any], *, group: str, own: Mapping[str, Any]) -> Consumer:
    """Make a client that looks on behalf of a group which it never joins. Raises SettingsRefused.

    It takes whatever properties a member takes; those of `own` go before all others.
    """
    try:
        return Consumer({**consumer_settings(settings, group=group), **own})
    except KafkaException as error:
        raise SettingsRefused(error.args[0].str()) from error


def consumer_settings(settings: Mapping[str, Any], *, group: str) -> dict[str, Any]:
    """Complete the user's librdkafka properties to a consumer's, with what its group protocol allows."""
    classic = {} if settings.get("group.protocol") == "consumer" else _CLASSIC
    return {
        "fetch.wait.max.ms": 100,
        "queued.max.messages.kbytes": 32_768,
        # Once so much is fetched ahead the client asks for no more for as long: by default a second, in which a stream
        # of long records has learned all of it and stands still.
        "fetch.queue.backoff.ms": 10,
        # A broker that is back is found within a second, not ten: the coordinator's connection waits by itself.
        "reconnect.backoff.max.ms": 1_000,
        # A reply that was lost on a connection that lives is missed after this: a minute, by default.
        "socket.timeout.ms": 10_000,
        # A broker that wakes may first tell of no broker at all, not even of itself. Who has nobody to ask for so long
        # begins with the bootstrap servers again: after five minutes, by default.
        "metadata.recovery.rebootstrap.trigger.ms": 5_000,
        # A first answer that was lost is missed after this: ten seconds, by default.
        "api.version.request.timeout.ms": 5_000,
        # The loop polls many times a second; what holds a rebalance up for longer hangs.
        "max.poll.interval.ms": 60_000,
        **classic,
        **settings,
        **_OWNED,
        "group.id": group,
    }
