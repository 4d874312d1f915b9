"""Decides which requests the page answers: those of its own pages, and actions only with the token.

A page of another site may send requests to this address from the user's browser, and may let its own name lead here
(DNS rebinding). So each request must name this page as its host, and itself as its origin if it names one.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from headrace.pipeline.config.config import Config, ConfigError

READS = frozenset({"GET", "HEAD"})
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""The headers of every answer: nothing is loaded from elsewhere, and nobody may show the page in theirs."""

_TOKEN_BYTES = 24
_TOKEN_BYTES_MAX = 4_096
_LOCAL_NAMES = frozenset({"localhost", "ip6-localhost"})
_PORT = 80


class Asked(msgspec.Struct, frozen=True):
    """What the guard looks at: a request's method, and some of its headers."""

    method: str
    path: str
    host: str
    origin: str | None = None
    site: str | None = None
    mode: str | None = None
    authorization: str = ""


class Token:
    """The token of actions: from a file, which is read again each time, or drawn at the start."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.drawn = "" if file is not None else secrets.token_urlsafe(_TOKEN_BYTES)

    @classmethod
    def of(cls, config: Config) -> "Token":
        """Return the token of a configuration. Raises ConfigError for a file that can't be read, or is empty."""
        name = config.page.token_file
        token = cls(config.directory / name if name else None)
        token.read()
        return token

    def read(self) -> str:
        """Return the token. Raises ConfigError."""
        if self._file is None:
            return self.drawn
        try:
            with self._file.open("rb") as file:
                found = file.read(_TOKEN_BYTES_MAX).strip()
        except OSError as error:
            raise ConfigError(
                f"page.token_file = {str(self._file)!r} can't be read: {error.strerror}",
                hint="write a token to it, as `openssl rand -hex 24` makes one, or leave the key out",
            ) from error
        if not found:
            raise ConfigError(f"page.token_file = {str(self._file)!r} is empty", hint="write a token to it")
        return found.decode(errors="replace")

    def fits(self, authorization: str) -> bool:
        """Return whether a header has the token, in a time that tells nothing of it."""
        kind, _, given = authorization.partition(" ")
        try:
            wanted = self.read()
        except ConfigError:
            return False
        return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), wanted.encode())


class Guard:
    """The rules for requests to one address. Without `token` there are no actions."""

    def __init__(self, host: str, port: int, *, token: Token | None, actions: Iterable[str]) -> None:
        self._host = host.lower()
        self._port = port
        self._token = token
        self._actions = frozenset(f"/actions/{name}" for name in actions)

    def refusal(self, asked: Asked) -> str:
        """Return why a request is refused; empty for one that is answered."""
        if not self._is_own(asked.host):
            return f"the host {asked.host[:100]!r} is not this page's address"
        if asked.origin is not None and asked.origin.lower() != f"http://{asked.host.lower()}":
            return f"the origin {asked.origin[:100]!r} is not this page"
        if asked.site in {"cross-site", "same-site"} and asked.mode != "navigate":
            return "the request comes from another site"
        if asked.method in READS:
            return ""
        if self._token is None:
            return "actions are off: start with --actions, or set page.actions = true"
        if asked.method != "POST" or asked.path not in self._actions:
            return "there is no such action"
        return "" if self._token.fits(asked.authorization) else "the token of the page is missing or wrong"

    def _is_own(self, host: str) -> bool:
        """Return whether a Host header is an address of this page.

        A foreign name can be made to lead here, a number can't: where the page listens on all addresses, any number is
        its own.
        """
        try:
            parts = urlsplit(f"//{host}")
            name, port = (parts.hostname or "").lower(), parts.port or _PORT
        except ValueError:
            return False
        if port != self._port or parts.username is not None or parts.path:
            return False
        if name == self._host:
            return True
        listens = _address(self._host)
        is_loopback = self._host in _LOCAL_NAMES or (listens is not None and listens.is_loopback)
        found = _address(name)
        if found is None:
            return name in _LOCAL_NAMES and (is_loopback or (listens is not None and listens.is_unspecified))
        return found.is_loopback if is_loopback else listens is not None and listens.is_unspecified


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
