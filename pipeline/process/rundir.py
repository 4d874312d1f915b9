"""The folder of a pipeline on one machine: a lock and a note for each worker, readable without the store.

The kernel releases the lock of a dead worker at once. `status` reads the notes, so it can say why the stream is paused
even if the reason is that the store does not answer.

Only its user may use the folder. Other users may be able to write to its parent folders. So each part of the path is
opened without following a link, and its owner and rights are checked before any file in it is opened.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from headrace.pipeline.config.config import Config
from headrace.pipeline.config.redaction import address
from headrace.pipeline.hinted_error import HintedError
from headrace.state.store.roster import WORKERS_MAX

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOTE_BYTES_MAX = 1_000_000
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_RUNTIME_VARIABLE = "XDG_RUNTIME_DIR"


class FolderRefused(HintedError):
    """Raised when the folder of the locks is not this user's alone, or can't be made."""


class RunDir:
    """The folder of one pipeline on this machine, found again by the same configuration."""

    def __init__(self, config: Config) -> None:
        where = f"{config.kafka.bootstrap_servers}|{address(config.redis.url.get_secret_value())}"
        self._name = f"{config.name}-{hashlib.sha256(where.encode()).hexdigest()[:12]}"

    @property
    def path(self) -> Path:
        """The path of the folder, which may not exist yet."""
        return _home() / self._name

    def place(self) -> str:
        """Return a name for this folder: processes with the same name see the same locks, also in containers.

        Raises FolderRefused, as `lock` does.
        """
        with self._opened(_home()) as folder:
            mine = f"place.{os.getpid()}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(mine, dir_fd=folder)
            _write(folder, mine, uuid.uuid4().hex.encode(), flags=os.O_EXCL)
            with contextlib.suppress(FileExistsError):
                os.link(mine, "place", src_dir_fd=folder, dst_dir_fd=folder)
            os.unlink(mine, dir_fd=folder)
            return _read(folder, "place").decode(errors="replace")

    def lock(self, ordinal: int) -> IO[bytes] | None:
        """Lock an ordinal until the returned file is closed; None if another process holds the lock."""
        with self._opened(_home()) as folder:
            file = os.fdopen(
                os.open(f"worker-{ordinal}.lock", os.O_RDWR | os.O_CREAT | _FILE, 0o600, dir_fd=folder), "r+b"
            )
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def write(self, ordinal: int, note: dict[str, Any]) -> None:
        """Write a worker's note for `status`; readers see the old note or the new one, never a part."""
        part = f"worker-{ordinal}.part"
        # A full disk must not stop the stream: the note is only for people.
        with contextlib.suppress(OSError, FolderRefused), self._opened(_home()) as folder:
            _write(folder, part, msgspec.json.encode(note), flags=os.O_TRUNC)
            os.replace(part, f"worker-{ordinal}.json", src_dir_fd=folder, dst_dir_fd=folder)

    def notes(self) -> dict[int, dict[str, Any]]:
        """Return the notes of the workers that are alive, by ordinal. Raises FolderRefused."""
        found: dict[int, dict[str, Any]] = {}
        # The workers may have been started with another value of the variable.
        for home in {_home(), _temporary()}:
            with contextlib.suppress(FileNotFoundError), self._opened(home, make=False) as folder:
                found |= _notes(folder)
        return found

    def remove(self) -> None:
        """Remove the folder and its content."""
        with contextlib.suppress(FileNotFoundError), self._opened(_home(), make=False) as folder:
            with os.scandir(folder) as entries:
                for entry in entries:
                    os.unlink(entry.name, dir_fd=folder)
            self.path.rmdir()

    @contextlib.contextmanager
    def _opened(self, home: Path, *, make: bool = True) -> Iterator[int]:
        """Open the folder; create it if asked. Raises FolderRefused, and FileNotFoundError if it does not exist."""
        with contextlib.ExitStack() as stack:
            try:
                outer = _open(home, None, make=make)
                stack.callback(os.close, outer)
                inner = _open(self._name, outer, make=make)
                stack.callback(os.close, inner)
            except FileNotFoundError:
                if not make:
                    raise
                raise _refused(home, "can't be made: the folder that it is to be in is not there") from None
            except OSError as error:
                raise _refused(home, f"can't be used: {error.strerror}") from error
            yield inner


def _home() -> Path:
    """Return the parent of this user's folders: the runtime folder of the system, or the temporary folder."""
    given = os.environ.get(_RUNTIME_VARIABLE, "")
    with contextlib.suppress(OSError):
        found = os.lstat(given)
        if Path(given).is_absolute() and stat.S_ISDIR(found.st_mode) and _is_own(found) and not found.st_mode & 0o077:
            return Path(given) / "headrace"
    return _temporary()


def _temporary() -> Path:
    name = f"headrace-{os.geteuid()}"
    try:
        return Path(tempfile.gettempdir()) / name
    except FileNotFoundError:
        raise _refused(name, "can't be made: no temporary folder can be written") from None


def _open(path: Path | str, within: int | None, *, make: bool) -> int:
    """Open a folder that only this user can use. Raises FolderRefused, OSError."""
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700, dir_fd=within)
    try:
        folder = os.open(path, _FOLDER, dir_fd=within)
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        raise _refused(path, "is a link or a file, which somebody has put there") from None
    found = os.fstat(folder)
    if _is_own(found) and not found.st_mode & _OTHERS_WRITE:
        # An older release created the folder so that others may read it.
        if found.st_mode & 0o077:
            os.fchmod(folder, 0o700)
        return folder
    os.close(folder)
    if _is_own(found):
        raise _refused(path, "can be written by other users")
    raise _refused(path, f"belongs to the user {found.st_uid}, and this is {os.geteuid()}")


def _is_own(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid()


def _refused(path: Path | str, why: str) -> FolderRefused:
    return FolderRefused(
        f"the folder for the workers' locks, {path}, {why}",
        hint=f"remove it, or set {_RUNTIME_VARIABLE} to a folder of your own that nobody else may enter (mode 700)",
    )


def _notes(folder: int) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for ordinal in range(WORKERS_MAX):
        with contextlib.suppress(OSError, msgspec.DecodeError, KeyError, TypeError):
            note = msgspec.json.decode(_read(folder, f"worker-{ordinal}.json"))
            os.kill(note["pid"], 0)
            found[ordinal] = note
    return found


def _write(folder: int, name: str, content: bytes, *, flags: int) -> None:
    with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | flags | _FILE, 0o600, dir_fd=folder), "wb") as file:
        file.write(content)


def _read(folder: int, name: str) -> bytes:
    with os.fdopen(os.open(name, os.O_RDONLY | _FILE, dir_fd=folder), "rb") as file:
        return file.read(_NOTE_BYTES_MAX)
