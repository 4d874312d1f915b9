"""Loopback ports for the embedded servers: chosen, remembered, and chosen again if another process took one."""

import random
import socket
from collections.abc import Callable
from pathlib import Path

from headrace.pipeline.embedded.server import EmbeddedError, PortTakenError

ATTEMPTS = 5

# Below the range of outgoing connections (Linux from 32768, macOS from 49152). In that range a client that keeps
# trying to reach a stopped server may connect to itself, and the server can't get its port back.
PORTS = range(20_000, 32_000)


def on_ports(start: Callable[[list[int]], None], *, count: int, remembered: Path) -> None:
    """Call ``start`` with the remembered ports, or with new ones until no other process has them.

    Raises the errors of ``start``, but PortTakenError only after several attempts.
    """
    ports = read_ports(remembered)
    for left in reversed(range(ATTEMPTS)):
        if len(ports) != count or not all(map(is_free, ports)):
            ports = free_ports(count)
        try:
            start(ports)
        except PortTakenError:
            if not left:
                raise
            ports = []
        else:
            remembered.write_text(" ".join(map(str, ports)))
            return


def read_ports(path: Path) -> list[int]:
    """Return the ports that a data directory was last served at, or an empty list if they are unknown."""
    try:
        return [int(word) for word in path.read_text().split()]
    except (FileNotFoundError, ValueError):
        return []


def free_ports(count: int) -> list[int]:
    """Choose loopback ports on which no process listens; raise EmbeddedError if there are too few."""
    chosen: list[int] = []
    # Not the shared generator: pytest and users seed it, and two stacks would choose the same ports.
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(chosen) == count:
            return chosen
        if is_free(port):
            chosen.append(port)
    raise EmbeddedError("no free port on 127.0.0.1", hint="end what listens on 20000 to 32000")


def is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        # Servers set this option, too: a port with connections only in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
