"""References in the configuration: `${file:PATH}` and `${env:NAME}` in any string are replaced by their content.

`$${` stands for a plain `${`. The content is not searched for references again. It is a secret wherever it appears:
see `pipeline/config/redaction.py`. A reference `module:function` names a function of the user's (`load_function`).
"""

import importlib
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from headrace.pipeline.hinted_error import HintedError

_REFERENCE = re.compile(r"(?P<literal>\$\$\{)|\$\{(?:(?P<kind>file|env):(?P<name>[^{}]+)\})?")
_FILE_BYTES_MAX = 1_000_000


class ReferenceMissing(HintedError):
    """Raised when a reference has no content or is malformed; the message names the key and never its value."""


class Resolved(msgspec.Struct, frozen=True):
    """A configuration with its references replaced; `secrets` are the inserted values, by the dotted key.

    `files` are the files that were read.
    """

    tree: dict[str, Any]
    secrets: dict[str, frozenset[str]]
    files: frozenset[Path]


def resolve(tree: Mapping[str, Any], directory: Path) -> Resolved:
    """Replace the references in all strings; paths are relative to `directory`. Raises ReferenceMissing."""
    secrets: dict[str, frozenset[str]] = {}
    files: set[Path] = set()

    def walk(node: Any, key: str) -> Any:
        if isinstance(node, Mapping):
            return {name: walk(value, f"{key}.{name}" if key else str(name)) for name, value in node.items()}
        if isinstance(node, list | tuple):
            return [walk(value, f"{key}.{position}") for position, value in enumerate(node)]
        if not isinstance(node, str) or "${" not in node:
            return node
        found: set[str] = set()
        text = _REFERENCE.sub(lambda match: _value(match, key, directory, found), node)
        files.update(directory / match["name"] for match in _REFERENCE.finditer(node) if match["kind"] == "file")
        if found:
            # The whole string is a secret as well: a password may consist of two references.
            secrets[key] = frozenset(found | {text})
        return text

    whole = walk(tree, "")
    return Resolved(whole, secrets, frozenset(files))


def _value(match: re.Match[str], key: str, directory: Path, found: set[str]) -> str:
    if match["literal"]:
        return "${"
    if match["kind"] is None:
        raise ReferenceMissing(
            f"{key}: a ${{ in it begins neither ${{file:PATH}} nor ${{env:NAME}}",
            hint="correct it, or write $${ for a plain ${",
        )
    name = match["name"]
    value = os.environ.get(name) if match["kind"] == "env" else _read(directory / name, key)
    if value is None:
        raise ReferenceMissing(f"{key}: the environment variable {name} is not set", hint=f"set {name}")
    if not value:
        # An empty secret would turn off the protection that it stands for.
        where = f"the environment variable {name}" if match["kind"] == "env" else f"the file {name}"
        raise ReferenceMissing(f"{key}: {where} is empty", hint=f"fill it in, or take {key} out of the configuration")
    found.add(value)
    return value


def _read(path: Path, key: str) -> str:
    hint = "check the path, which is relative to the configuration's file, and its permissions"
    try:
        # Do not wait for the writer of a named pipe: each worker reads the file again.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ReferenceMissing(f"{key}: {path} is not a file", hint=hint)
            content = os.read(file, _FILE_BYTES_MAX + 1)
        finally:
            os.close(file)
        text = content.decode()
    except OSError as error:
        raise ReferenceMissing(f"{key}: {path} can't be read: {error.strerror}", hint=hint) from error
    except ValueError:
        # A path with a NUL, or bytes that are not text. The words of the error would show some of the secret.
        raise ReferenceMissing(f"{key}: {path} is not UTF-8 text", hint="write the secret as text") from None
    if len(content) > _FILE_BYTES_MAX:
        raise ReferenceMissing(f"{key}: {path} has more than {_FILE_BYTES_MAX:,} bytes", hint="name a smaller file")
    return text.removesuffix("\n").removesuffix("\r")


class FunctionMissing(HintedError):
    """Raised when a function can't be loaded; the caller names the key or the option that refers to it."""


def load_function(reference: str, directory: Path) -> Callable[..., Any]:
    """Import a function. Raises FunctionMissing."""
    module, _, name = reference.partition(":")
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    try:
        function: Any = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise FunctionMissing(
            f"can't be loaded: {type(error).__name__}: {error}",
            hint=f"put a function {name or 'NAME'}() into {directory / (module + '.py')}",
        ) from error
    if not callable(function):
        raise FunctionMissing("is not a function", hint=f"put a function {name}() into {directory / (module + '.py')}")
    return function  # type: ignore[no-any-return]
