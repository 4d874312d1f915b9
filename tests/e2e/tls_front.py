"""A port in front of a server that speaks no TLS: it takes connections with TLS, and plain ones of other servers."""

import contextlib
import socket
import ssl
import threading
from types import TracebackType
from typing import Self

_TLS_HANDSHAKE = b"\x16"
_CHUNK = 65_536


class TlsFront:
    """Pass connections on to a server's `port`; `encrypted` and `plain` count those that came in either way."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._server = port
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.encrypted = self.plain = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=[client], daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as exits:
            exits.callback(client.close)
            if client.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE:
                client = exits.enter_context(self._context.wrap_socket(client, server_side=True))
                self.encrypted += 1
            else:
                self.plain += 1
            server = exits.enter_context(socket.create_connection(("127.0.0.1", self._server)))
            back = threading.Thread(target=_copy, args=[server, client], daemon=True)
            back.start()
            _copy(client, server)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until one side ends, and then end the other."""
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
