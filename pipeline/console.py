"""Where commands write: data to standard output, which nothing else reaches, and words to standard error.

The user's code runs inside many commands, and may print, as may a C library or a process that it starts. So a command
takes standard output for itself, and whatever else is written there goes to standard error. What a terminal's encoding
does not have is written in ASCII.
"""

import codecs
import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any, TextIO

_WORDS = "headrace-words"
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
"""What stands for the signs that the commands print."""


class _Data:
    """Standard output, for what a command was asked for."""

    def __init__(self) -> None:
        self._own: TextIO | None = None

    @property
    def file(self) -> TextIO:
        """The open file, for libraries that want one."""
        return self._own or sys.stdout

    def claim(self, *, json: bool) -> None:
        """Take standard output away from all other code of this process. `json` says what is to be written.

        Where something else has replaced it already, as a test does, it stays as it is.
        """
        standard = sys.stdout
        if self._own is not None or not isinstance(standard, io.TextIOWrapper) or standard is not sys.__stdout__:
            return
        standard.flush()
        encoding, line_buffering = standard.encoding, standard.isatty()
        own = os.dup(1)
        os.dup2(2, 1)
        # Between the lines of standard error, and before an end that flushes nothing.
        standard.reconfigure(line_buffering=True)
        self._own = os.fdopen(
            own, "w", encoding=encoding, errors=_JSON if json else _WORDS, buffering=1 if line_buffering else -1
        )

    def write(self, text: str) -> None:
        """Write some text."""
        self.file.write(text)

    def flush(self) -> None:
        """Write what is still buffered."""
        self.file.flush()

    def isatty(self) -> bool:
        """Tell whether a person reads it."""
        return self.file.isatty()

    def drop(self) -> None:
        """Write the rest nowhere: the reader is gone, or the disk is full."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)


data = _Data()


class Words(io.TextIOWrapper):
    """Standard error, which shows no secret that it was told of, and no user and password of an address."""

    _conceal: Callable[[str], str] = str

    def hide(self, conceal: Callable[[str], str]) -> None:
        """Write all text from now on as `conceal` returns it."""
        self._conceal = conceal

    def write(self, text: str, /) -> int:
        """Write some text."""
        return super().write(_CREDENTIALS.sub("***@", self._conceal(text)))


def as_json(value: Any) -> str:
    """Return a value as JSON. What is no Unicode in its text, as a file's name or an error may have it, is escaped."""
    import msgspec  # noqa: PLC0415 `--help` does without it

    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value, str_keys=True))


def open_standard_files() -> None:
    """Let standard output and error take any character, whatever their encoding; and let error hide secrets."""
    codecs.register_error(_WORDS, _in_words)
    codecs.register_error(_JSON, _in_json)
    for file in (sys.stdout, sys.stderr):
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors=_WORDS)
    if isinstance(sys.stderr, io.TextIOWrapper):
        encoding = sys.stderr.encoding
        sys.stderr = Words(sys.stderr.detach(), encoding=encoding, errors=_WORDS, line_buffering=True)


def hide(conceal: Callable[[str], str]) -> None:
    """Keep secrets out of standard error from now on."""
    if isinstance(sys.stderr, Words):
        sys.stderr.hide(conceal)


def _in_words(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(_ASCII.get(sign) or _escaped(sign) for sign in part), error.end


def _in_json(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escaped, error.object[error.start : error.end])), error.end


def _escaped(sign: str) -> str:
    """Write a character as JSON may: beyond the first 65,536 as two halves."""
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
