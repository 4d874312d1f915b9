"""A file lock between processes, for the cache of jars and for the data directory of a stack."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self


class Lock:
    """Hold a file's lock until `close`, or until every process that shares ``fd`` has ended."""

    def __init__(self, path: Path, *, timeout_s: float, waiting: Callable[[], None]) -> None:
        """Take the lock; call ``waiting`` once if another process holds it; raise TimeoutError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + timeout_s
        has_waited = False
        while not self._try():
            if time.monotonic() > deadline:
                self.close()
                raise TimeoutError(path)
            if not has_waited:
                waiting()
                has_waited = True
            time.sleep(0.05)

    def close(self) -> None:
        """Release the lock."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _try(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
