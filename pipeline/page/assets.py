"""The page's files, read once into memory, compressed, each with the checksum of its content as its ETag.

`vendor.lock` names the npm package of each file below `static/vendor`, and its sha256.
"""

import gzip
import hashlib
from importlib import resources

import msgspec

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_FOLDER = "headrace.pipeline.page"


class Asset(msgspec.Struct, frozen=True):
    """One file: its bytes, the same compressed, its media type and its ETag."""

    content: bytes
    packed: bytes
    media_type: str
    etag: str


def assets() -> dict[str, Asset]:
    """Return the files by their path below `static/`."""
    return dict(_walk(resources.files(_FOLDER).joinpath("static"), ""))


def _walk(folder: resources.abc.Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for entry in folder.iterdir():
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            found += _walk(entry, f"{name}/")
        elif (media_type := _TYPES.get(name.rpartition(".")[2])) is not None:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found.append((name, Asset(content, gzip.compress(content, 9, mtime=0), media_type, etag)))
    return found
