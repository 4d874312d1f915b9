"""The output of commands: data to standard output, messages to standard error.

Many commands run the user's code. It may print, and so may a C library or a process that it starts. So a command takes
standard output for itself, and all other output of the process goes to standard error. Characters that the terminal's
encoding does not have are written in ASCII.
"""

import codecs
import contextlib
import datetime as dt
import io
import json
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_TEXT = "headrace-text"
_JSON = "headrace-json"
_CREDENTIALS = re.compile(r"(?<=://)[^\s'\"]+@")
_ASCII = {
    "✔": "ok",
    "✓": "ok",
    "✘": "!!",
    "✗": "!!",
    "→": "->",
    "…": "...",
    "·": "-",
    "µ": "u",
    **dict(zip("▁▂▃▄▅▆▇█", "_.-~=+*#", strict=True)),
}
"""The ASCII form of the signs that the commands print."""


class _Data:
    """Standard output, for the data that a command prints."""

    def __init__(self) -> None:
        self._own: TextIO | None = None

    @property
    def file(self) -> TextIO:
        """The open file, for libraries that need one."""
        return self._own or sys.stdout

    def claim(self, *, json: bool) -> None:
        """Take standard output away from all other code of this process. `json` says that JSON will be written.

        Do nothing if other code, such as a test, has already replaced `sys.stdout`.
        """
        standard = sys.stdout
        if self._own is not None or not isinstance(standard, io.TextIOWrapper) or standard is not sys.__stdout__:
            return
        standard.flush()
        encoding, line_buffering = standard.encoding, standard.isatty()
        own = os.dup(1)
        os.dup2(2, 1)
        # Line by line, so that the order with standard error is right and an abrupt end loses no line.
        standard.reconfigure(line_buffering=True)
        self._own = os.fdopen(
            own, "w", encoding=encoding, errors=_JSON if json else _TEXT, buffering=1 if line_buffering else -1
        )

    def write(self, text: str) -> None:
        """Write a text."""
        self.file.write(text)

    def render(self, screen: "Console", content: Any) -> None:
        """Write a table or other content of rich, without the spaces at the ends of its lines."""
        with screen.capture() as captured:
            screen.print(content)
        self.write("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")

    def flush(self) -> None:
        """Write the buffered text."""
        self.file.flush()

    def isatty(self) -> bool:
        """Return whether standard output is a terminal."""
        return self.file.isatty()

    def drop(self) -> None:
        """Send the buffered text to /dev/null: the reader is gone, or the disk is full."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.file.fileno())
            os.close(null)


data = _Data()


class RedactedStderr(io.TextIOWrapper):
    """Standard error without secrets: it hides the configured ones, and the user and password of any address."""

    _conceal: Callable[[str], str] = str

    def hide(self, conceal: Callable[[str], str]) -> None:
        """Pass all text from now on through `conceal`."""
        self._conceal = conceal

    def write(self, text: str, /) -> int:
        """Write a text without its secrets."""
        return super().write(_CREDENTIALS.sub("***@", self._conceal(text)))


def as_json(value: Any) -> str:
    """Return a value as JSON. Invalid Unicode, as in the name of a file or in an error, is escaped."""
    import msgspec  # noqa: PLC0415 `--help` does without it

    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value, str_keys=True))


def complain(message: str, hint: str) -> None:
    """Tell the operator on standard error what is wrong, and what to do next."""
    # If nothing can be written there either, the exit code still tells of the error.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"headrace: {message}\n  → {hint}\n")


def utc(at_ms: int) -> str:
    """Format a time in ms since 1970 for people, in UTC."""
    try:
        return dt.datetime.fromtimestamp(at_ms / 1_000, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        # The writer of a record chose the number, and not every number is a date.
        return str(at_ms)


def open_standard_files() -> None:
    """Make standard output and error accept any character in any encoding, and make standard error hide secrets."""
    codecs.register_error(_TEXT, _to_ascii)
    codecs.register_error(_JSON, _to_escapes)
    for file in (sys.stdout, sys.stderr):
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors=_TEXT)
    if isinstance(sys.stderr, io.TextIOWrapper):
        encoding = sys.stderr.encoding
        sys.stderr = RedactedStderr(sys.stderr.detach(), encoding=encoding, errors=_TEXT, line_buffering=True)


def hide(conceal: Callable[[str], str]) -> None:
    """Pass all text of standard error through `conceal` from now on."""
    if isinstance(sys.stderr, RedactedStderr):
        sys.stderr.hide(conceal)


def _to_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(_ASCII.get(sign) or _escaped(sign) for sign in part), error.end


def _to_escapes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escaped, error.object[error.start : error.end])), error.end


def _escaped(sign: str) -> str:
    """Return a character as a JSON escape; one above U+FFFF as two surrogates."""
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
