"""The embedded Apache Kafka (KRaft): its files, its formatted directory, and its readiness check."""

import base64
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.pipeline.embedded.jars import KAFKA_VERSION, ReportProgress, cache_dir, cache_lock, classpath, java
from headrace.pipeline.embedded.node import LOG4J, Node, read_properties, settings, write_properties
from headrace.pipeline.embedded.reaper import Reaper
from headrace.pipeline.embedded.server import EmbeddedError, Server

FORMAT_S = 60.0
LOOK_S = 0.5
LIST_S = 2.0
BOOTSTRAP = "bootstrap.checkpoint"
META = "meta.properties"

# The quick compiler starts faster. A small young generation keeps the pauses of the garbage collector at 5 ms: with a
# hundred megabytes they are 50 ms every other second, and all records wait that long. An unknown flag of another JRE
# is ignored.
JVM = (
    "-Xmx512m",
    "-Xmn32m",
    "-XX:+UseParallelGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+IgnoreUnrecognizedVMOptions",
    "-XX:-UsePerfData",  # it leaves a file a process in /tmp
)


def cluster(
    nodes: Sequence[Node],
    *,
    reaper: Reaper,
    progress: ReportProgress,
    extra: Mapping[str, str],
) -> list[Server]:
    """Write the files of the nodes, keep existing data, and describe the servers.

    ``extra`` are settings of Kafka. Raise JarsUnreachableError if Kafka is not cached and can't be downloaded.
    """
    jars, runtime = classpath(progress=progress), java()
    checkpoint = _checkpoint(jars, runtime)
    command = _command(jars, runtime)
    cluster_id = cluster_id_of(nodes)
    for node in nodes:
        format_node(node, cluster_id=cluster_id, checkpoint=checkpoint)
        write_properties(node.home / "server.properties", settings(node, nodes=nodes, extra=extra))
        (node.home / "log4j2.properties").write_text(LOG4J)
    return [_server(node, cluster_id, reaper=reaper, command=command) for node in nodes]


def _server(node: Node, cluster_id: str, *, reaper: Reaper, command: list[str]) -> Server:
    name = f"kafka-{node.id}"
    logging_options = [
        f"-Dlog4j2.configurationFile={(node.home / 'log4j2.properties').as_uri()}",
        f"-Dheadrace.log={node.home / f'{name}.log'}",
    ]
    properties = str(node.home / "server.properties")
    return Server(
        name=name,
        port=node.port,
        argv=[*command, *logging_options, "kafka.Kafka", properties],
        home=node.home,
        reaper=reaper,
        ready=lambda _: sees(node.port, cluster_id=cluster_id, ids={node.id}),
    )


def sees(port: int, *, cluster_id: str | None, ids: set[int]) -> bool:
    """Return whether the broker at ``port`` answers, belongs to this cluster, and knows the brokers ``ids``."""
    address = f"127.0.0.1:{port}"
    try:
        # A Kafka client that is refused waits longer and longer. So test the port with a plain connection first.
        socket.create_connection(("127.0.0.1", port), LOOK_S).close()
        found = silent_admin({"bootstrap.servers": address}).list_topics(timeout=LIST_S)
    except (OSError, KafkaException):
        return False
    return ids <= found.brokers.keys() and cluster_id in (None, found.cluster_id)


def silent_admin(options: Mapping[str, str | int]) -> AdminClient:
    """Return an admin client whose library writes nothing to the terminal."""
    logger = logging.getLogger("headrace.pipeline.embedded.librdkafka")
    logger.disabled = True
    return AdminClient({"log_level": 0, **options}, logger=logger)


def _command(jars: list[Path], runtime: Path) -> list[str]:
    return [str(runtime), *JVM, "-cp", os.pathsep.join(map(str, jars))]


def cluster_id_of(nodes: Sequence[Node]) -> str:
    """Return the cluster id of existing data, or a new one."""
    metas = [read_properties(node.home / "data" / META) for node in nodes]
    return next((meta["cluster.id"] for meta in metas if meta), _new_id())


def _new_id() -> str:
    # Kafka's form of a random id. One that starts with a dash would be read as an option.
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def format_node(node: Node, *, cluster_id: str, checkpoint: bytes) -> None:
    """Do the work of ``StorageTool format``, which would take a second to start a JVM; keep formatted data.

    The tool writes two files: the checkpoint of the cluster's features, which is the same for every cluster of a
    version, and the identity of the directory. If the second file exists, the directory is formatted.
    """
    directory = node.home / "data"
    if (directory / META).exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    (directory / BOOTSTRAP).write_bytes(checkpoint)
    identity = {"version": "1", "cluster.id": cluster_id, "node.id": str(node.id), "directory.id": _new_id()}
    unfinished = directory / f"{META}.new"
    write_properties(unfinished, identity)
    unfinished.rename(directory / META)


def _checkpoint(jars: list[Path], runtime: Path) -> bytes:
    """Return the checkpoint that Kafka's tool writes; it is made once for each user."""
    kept = cache_dir() / f"kafka-{KAFKA_VERSION}.{BOOTSTRAP}"
    if not kept.exists():
        with cache_lock(waiting=lambda: None):
            if not kept.exists():
                _make_checkpoint(kept, jars, runtime)
    return kept.read_bytes()


def _make_checkpoint(kept: Path, jars: list[Path], runtime: Path) -> None:
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix="formatting-") as scratch:
        node = Node(id=1, port=1, controller_port=2, home=Path(scratch))
        properties = node.home / "server.properties"
        write_properties(properties, settings(node, nodes=[node], extra={}))
        tool = ["kafka.tools.StorageTool", "format", "-t", _new_id(), "-c", str(properties)]
        done = subprocess.run(  # noqa: S603  # our own command
            _command(jars, runtime) + tool,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FORMAT_S,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[0]
            raise EmbeddedError(f"Kafka's format tool failed: {last}", hint=f"run {runtime} -version")
        shutil.move(node.home / "data" / BOOTSTRAP, kept)
