"""Who may ask, and how it is encrypted: the bearer tokens and the TLS certificate, both read again when they change."""

import hashlib
import hmac
import re
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from headrace.pipeline.hinted_error import HintedError
from headrace.pipeline.process.watched_files import WatchedFiles
from headrace.pipeline.serve.http.problem import Problem

log = structlog.get_logger("headrace")

_LINE = re.compile(r"([0-9a-fA-F]{64})(?:\s+(\d{1,9}))?")
_WRONG = Problem("unauthorized", "the request has no valid bearer token")


class AccessFileInvalid(HintedError):
    """Raised when the file of tokens, the certificate or its key can't be used."""


class Quota:
    """The requests that a token may still send: `per_second` more each second, and as many at once after a pause."""

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self._left = float(per_second)
        self._at_s = 0.0

    def take(self, now_s: float) -> bool:
        """Take one request; return whether there was one left."""
        self._left = min(self.per_second, self._left + (now_s - self._at_s) * self.per_second)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Tokens:
    """The SHA-256 of each valid token with its quota, from a file; without a file every request is let in.

    `clock` gives seconds that never jump.
    """

    def __init__(self, path: Path | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._quotas: dict[bytes, Quota | None] = {} if path is None else _read_tokens(path)

    def reload(self) -> None:
        """Read the file again. Raises AccessFileInvalid, and then the tokens stay as they are."""
        if self._path is not None:
            self._quotas = _read_tokens(self._path)

    @property
    def is_needed(self) -> bool:
        """Whether a request needs a token."""
        return self._path is not None

    def check(self, authorization: bytes) -> Problem | None:
        """Return why a header `Authorization` does not let a request in; None if it does."""
        if self._path is None:
            return None
        scheme, _, token = authorization.partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        # Each is compared, and in full: the time tells nothing of the tokens.
        known = [hmac.compare_digest(digest, valid) for valid in self._quotas]
        if scheme.lower() != b"bearer" or not any(known):
            return _WRONG
        quota = self._quotas[digest]
        if quota is None or quota.take(self._clock()):
            return None
        return Problem("quota", f"the token may send {quota.per_second} requests a second")


def _read_tokens(path: Path) -> dict[bytes, Quota | None]:
    hint = "write a line for each token: printf %s TOKEN | sha256sum | cut -d' ' -f1"
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise AccessFileInvalid(f"serve.tokens_file can't be read: {error}", hint=hint) from error
    quotas: dict[bytes, Quota | None] = {}
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        if not (found := _LINE.fullmatch(line)) or found[2] == "0":
            words = "is not a SHA-256 in hex, with or without a number of requests a second"
            raise AccessFileInvalid(f"serve.tokens_file: line {number} {words}", hint=hint)
        quotas[bytes.fromhex(found[1])] = None if found[2] is None else Quota(int(found[2]))
    return quotas


class Tls:
    """The TLS context for new connections, None without a certificate."""

    def __init__(self, cert: Path | None, key: Path | None) -> None:
        self._files = None if cert is None or key is None else (cert, key)
        self.context = None if self._files is None else _context(*self._files)

    def reload(self) -> None:
        """Read the files again, for connections from now on. Raises AccessFileInvalid, and then nothing changes."""
        if self._files is not None:
            self.context = _context(*self._files)


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise AccessFileInvalid(
            f"serve.tls_cert and serve.tls_key can't be used: {error}",
            hint="name a certificate and its key, both in PEM",
        ) from error
    return context


class AccessWatch:
    """Look at the files from time to time, and read those again that have changed."""

    def __init__(self, files: dict[Path, Callable[[], None]]) -> None:
        self._reloads = files
        self._watched = WatchedFiles(files, now_s=time.monotonic())

    def look(self) -> None:
        """Read what has changed; what can't be used is logged, and the old content stays."""
        changed = self._watched.changed(time.monotonic())
        for reload in {self._reloads[path] for path in changed}:
            try:
                reload()
                log.info("files changed, they are used from now on", files=[str(path) for path in changed])
            except AccessFileInvalid as error:
                log.warning("a changed file can't be used, the old content stays", reason=str(error), hint=error.hint)
