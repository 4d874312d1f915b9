"""The description of an embedded Kafka node: its ports and its directory, and its files of settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPLICAS_MAX = 3
INTERNAL_PARTITIONS = 5

LOG4J = """\
status=error
rootLogger.level=warn
rootLogger.appenderRef.file.ref=file
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName=${sys:headrace.log}
appender.file.filePattern=${sys:headrace.log}.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d %p %c{1}: %m%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=8MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=1
"""


@dataclass(frozen=True, slots=True)
class Node:
    """One broker, which is also a controller: its number, its two ports and its directory."""

    id: int
    port: int
    controller_port: int
    home: Path


_WAITS = {
    # Abort the transaction of a dead producer within a second of its timeout, not ten.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "group.initial.rebalance.delay.ms": "0",
    # Allow short sessions: a test that kills a consumer asks for one.
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    # A killed broker can return only when its last session is over: after three seconds, not nine.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # The end of a transaction waits for each broker that has a part of it: for a frozen one for ten seconds, not
    # thirty. Until then Kafka refuses the next transaction of the same producer.
    "request.timeout.ms": "10000",
}
"""How long Kafka waits for those that are gone or frozen, in milliseconds."""


def settings(node: Node, *, nodes: Sequence[Node], extra: Mapping[str, str]) -> dict[str, str]:
    """Return the server settings of a node; ``extra`` overrides them."""
    replicas = min(REPLICAS_MAX, len(nodes))
    in_sync = max(1, replicas - 1)
    return {
        "process.roles": "broker,controller",
        "node.id": str(node.id),
        # Static voters: the ports may change at the next start, the node numbers do not.
        "controller.quorum.voters": ",".join(f"{n.id}@127.0.0.1:{n.controller_port}" for n in nodes),
        "listeners": (f"PLAINTEXT://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controller_port}"),
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{node.port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(node.home / "data"),
        "auto.create.topics.enable": "false",
        "default.replication.factor": str(replicas),
        "min.insync.replicas": str(in_sync),
        "offsets.topic.replication.factor": str(replicas),
        "offsets.topic.num.partitions": str(INTERNAL_PARTITIONS),
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(in_sync),
        "transaction.state.log.num.partitions": str(INTERNAL_PARTITIONS),
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": str(in_sync),
        "share.coordinator.state.topic.num.partitions": str(INTERNAL_PARTITIONS),
        **_WAITS,
        # Records keep their own timestamps. A replayed record from last year must not be deleted.
        "log.retention.ms": "-1",
        # The cleaner of compacted topics takes this much of the heap at once (128 MB otherwise).
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
        **extra,
    }


def write_properties(path: Path, values: Mapping[str, str]) -> None:
    """Write a properties file for the JVM."""
    # Of the characters in a path, only the backslash has a special meaning in a properties file.
    lines = [f"{name}={value}".replace("\\", "\\\\") for name, value in values.items()]
    path.write_text("\n".join(lines) + "\n")


def read_properties(path: Path) -> dict[str, str]:
    """Read a properties file; return an empty dict if it does not exist."""
    if not path.exists():
        return {}
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)
