"""Writes the files of a project, never over others."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

_NAME_MAX = 100


class ProjectExists(Exception):
    """Raised when a file that `init` would write exists; nothing was written."""

    status = 409
    hint = "name another directory, or move the file away"


class ProjectRefused(Exception):
    """Raised when the directory can't be created or written."""

    status = 400
    hint = "name a directory that you can write"


def refuse_existing(directory: Path, files: Iterable[str]) -> None:
    """Raise ProjectExists if one of the files is there."""
    for file in files:
        if (directory / file).exists():
            raise ProjectExists(f"{directory / file} is there already; nothing was written")


def write(directory: Path, files: Mapping[str, str]) -> None:
    """Write files, by name, into a directory, which is created if necessary. Raises ProjectRefused."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (directory / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ProjectRefused(f"{directory} can't be written: {error}") from error


def name_of(directory: Path) -> str:
    """Derive the pipeline's name from the name of its directory."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", directory.resolve().name).strip("-.")[:_NAME_MAX] or "headrace"
