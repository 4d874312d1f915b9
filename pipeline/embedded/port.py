"""Loopback ports for the embedded servers: chosen, remembered, and chosen again if somebody was quicker."""

import random
import socket
from collections.abc import Callable
from pathlib import Path

from headrace.pipeline.embedded.server import EmbeddedError, PortTakenError

ATTEMPTS = 5

# Below the range from which systems take the port of an outgoing connection (Linux 32768, macOS
# 49152). In that range a client that keeps trying a stopped server may connect to itself, and then
# the server cannot have its port again.
PORTS = range(20_000, 32_000)


def on_ports(start: Callable[[list[int]], None], *, count: int, remembered: Path) -> None:
    """Call ``start`` with the ports of last time, or with others until nobody else has them.

    Whatever ``start`` raises passes through; PortTakenError only after several attempts.
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
    """Return the ports that a data directory was last served at, none if that is unknown."""
    try:
        return [int(word) for word in path.read_text().split()]
    except (FileNotFoundError, ValueError):
        return []


def free_ports(count: int) -> list[int]:
    """Choose loopback ports that nobody listens on now; raise EmbeddedError if there are too few."""
    chosen: list[int] = []
    # Not the shared generator: pytest and users seed that one, and two stacks would choose alike.
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(chosen) == count:
            return chosen
        if is_free(port):
            chosen.append(port)
    raise EmbeddedError("no free port on 127.0.0.1", hint="end what listens on 20000 to 32000")


def is_free(port: int) -> bool:
    """Say whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are only fading away is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
