"""An HTTP sink on loopback whose answers the test chooses."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver(ThreadingHTTPServer):
    """An HTTP sink on loopback that gives the chosen answers and keeps the requests that it accepted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.headers: dict[str, str] = {}
        self.refuse: set[str] = set()
        self.delay_s = 0.0
        self.posts = 0
        self.taken: list[dict[str, Any]] = []

    @classmethod
    @contextmanager
    def serving(cls) -> Iterator["Receiver"]:
        """Serve in a thread until the end of the block."""
        with cls() as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server
            server.shutdown()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/predictions"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        lines = [json.loads(line) for line in body.splitlines()]
        self.server.posts += 1
        time.sleep(self.server.delay_s)
        refused = any(line["id"] in self.server.refuse for line in lines)
        status = 422 if refused else self.server.status
        if status == 200:
            self.server.taken.extend(lines)
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""
