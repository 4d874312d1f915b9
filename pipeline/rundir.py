"""What workers of one machine share without the store: who is alive, and how each is.

A lock that the kernel drops with its process tells at once that a worker is dead; and `status` can say why
the stream is paused even while the store, which is the reason, does not answer.
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
import uuid
from pathlib import Path
from typing import IO, Any

import msgspec

from pipeline.config import Config
from state.roster import WORKERS_MAX


class RunDir:
    """The folder of one pipeline on this machine, found again by the same configuration."""

    def __init__(self, config: Config) -> None:
        where = f"{config.kafka.bootstrap_servers}|{config.redis.url.get_secret_value()}"
        digest = hashlib.sha256(where.encode()).hexdigest()[:12]
        self.path = Path(tempfile.gettempdir()) / f"headrace-{os.getuid()}" / f"{config.name}-{digest}"

    def place(self) -> str:
        """Name this folder: who gets the same name sees the same locks, whatever the hosts are called."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        mine, place = self.path / f"place.{os.getpid()}", self.path / "place"
        mine.write_text(uuid.uuid4().hex)
        with contextlib.suppress(FileExistsError):
            os.link(mine, place)
        mine.unlink()
        return place.read_text()

    def lock(self, ordinal: int) -> IO[bytes] | None:
        """Lock an ordinal for as long as the file that is returned stays open; None when it is taken."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (self.path / f"worker-{ordinal}.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def write(self, ordinal: int, note: dict[str, Any]) -> None:
        """Leave a worker's note for `status`, whole or not at all."""
        part = self.path / f"worker-{ordinal}.part"
        # A full disk must not stop the stream: the note is for people.
        with contextlib.suppress(OSError):
            part.write_bytes(msgspec.json.encode(note))
            part.replace(self.path / f"worker-{ordinal}.json")

    def notes(self) -> dict[int, dict[str, Any]]:
        """Return the notes of the workers that are alive, by ordinal."""
        found: dict[int, dict[str, Any]] = {}
        for ordinal in range(WORKERS_MAX):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                note = msgspec.json.decode((self.path / f"worker-{ordinal}.json").read_bytes())
                os.kill(note["pid"], 0)
                found[ordinal] = note
        return found
