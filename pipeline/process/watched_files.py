"""Sees when a file that the configuration names has new content, such as a certificate or a password that was replaced.

Pure but for the reading of the files: the time is an argument.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

# Look this often; and wait this long for a second file, such as the key of a new certificate.
_LOOK_S = 1.0
_SETTLE_S = 2.0

_Stat = tuple[int, int, int]


class WatchedFiles:
    """The files at `paths`, as they were at the last change that was reported."""

    def __init__(self, paths: Iterable[Path], *, now_s: float) -> None:
        self._paths = sorted(set(paths))
        self._look_at = now_s + _LOOK_S
        self._stats = {path: _stat(path) for path in self._paths}
        self._digests = {path: _digest(path) for path in self._paths}
        self._changed: dict[Path, float] = {}

    def changed(self, now_s: float) -> list[Path]:
        """Return the files with new content, once, when no other file has changed for a moment.

        A file that is missing for now counts as unchanged.
        """
        if now_s < self._look_at:
            return []
        self._look_at = now_s + _LOOK_S
        for path in self._paths:
            if (stat := _stat(path)) == self._stats[path] or stat is None:
                continue
            self._stats[path] = stat
            if (digest := _digest(path)) not in {None, self._digests[path]}:
                self._digests[path] = digest
                self._changed[path] = now_s
        if not self._changed or now_s < max(self._changed.values()) + _SETTLE_S:
            return []
        found = list(self._changed)
        self._changed.clear()
        return found


def _stat(path: Path) -> _Stat | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _digest(path: Path) -> bytes | None:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None
