"""The embedded schema registry: Apicurio Registry, which speaks the API of Confluent's.

It is one archive of Maven Central, pinned by its sha256, and runs on the same JRE as Kafka. Its schemas are in an H2
database in its directory.
"""

import hashlib
import http.client
import tarfile
import tempfile
from pathlib import Path

from headrace.pipeline.embedded.jars import (
    JarsUnreachableError,
    ReportProgress,
    cache_dir,
    cache_lock,
    java,
    maven,
)
from headrace.pipeline.embedded.reaper import Reaper
from headrace.pipeline.embedded.server import EmbeddedError, Server

REGISTRY_VERSION = "3.3.3"
PATH = "/apis/ccompat/v7"
"""The path of Confluent's API."""

_GROUP, _ARTIFACT = "io.apicurio", "apicurio-registry-app"
_SHA256 = "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63"
_LOOK_S = 2.0
_OK = 200
# The quick compiler starts faster; a registry has little to do.
_JVM = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")


def server(*, home: Path, port: int, reaper: Reaper, progress: ReportProgress) -> Server:
    """Describe a registry that listens only on the loopback address. Raises JarsUnreachableError, EmbeddedError."""
    folder = _folder(progress=progress)
    options = {
        "quarkus.http.host": "127.0.0.1",
        "quarkus.http.port": str(port),
        # Its health checks have a port of their own, 9000 for all registries: let the system choose one.
        "quarkus.management.host": "127.0.0.1",
        "quarkus.management.port": "0",
        "apicurio.storage.kind": "sql",
        "apicurio.storage.sql.kind": "h2",
        "apicurio.datasource.url": f"jdbc:h2:file:{home / 'schemas'}",
        "quarkus.log.level": "WARN",
        "quarkus.banner.enabled": "false",
    }
    properties = [f"-D{name}={value}" for name, value in options.items()]
    argv = [str(java()), *_JVM, *properties, "-jar", str(folder / "quarkus-run.jar")]
    return Server(name="registry", port=port, argv=argv, home=home, reaper=reaper, ready=lambda _: answers(port))


def answers(port: int) -> bool:
    """Return whether a registry answers at this port of the loopback address."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_LOOK_S)
    try:
        connection.request("GET", f"{PATH}/subjects")
        return connection.getresponse().status == _OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _folder(*, progress: ReportProgress) -> Path:
    """Return the folder of the unpacked archive; download it if this user has none yet."""
    folder = cache_dir() / f"apicurio-registry-{REGISTRY_VERSION}"
    if folder.exists():
        return folder
    with cache_lock(waiting=lambda: progress("waiting for another process that fetches Apicurio Registry")):
        if not folder.exists():  # the other process may have downloaded it
            progress(f"fetching Apicurio Registry {REGISTRY_VERSION} (160 MB, once)")
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    """Download beside the folder, check the archive, unpack it, and rename the result to the folder."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as scratch:
        context = maven(Path(scratch) / "repository")
        try:
            component = context.project(_GROUP, _ARTIFACT).at_version(REGISTRY_VERSION)  # type: ignore[attr-defined]
            archive = Path(component.artifact("all", "tar.gz").resolve())
        except Exception as error:
            # jgo lets the errors of its HTTP client and its parser through.
            raise JarsUnreachableError(
                f"Apicurio Registry {REGISTRY_VERSION} could not be fetched: {error}",
                hint="check the connection and try again, or run a registry of your own and set registry.url",
            ) from error
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != _SHA256:
            raise EmbeddedError(
                f"{_ARTIFACT} is not the archive that was pinned: sha256 {found}",
                hint="try again; if it happens again, something between here and Maven Central changes files",
            )
        whole = Path(scratch) / "whole"
        with tarfile.open(archive) as files:
            files.extractall(whole, filter="data")
        whole.rename(folder)
