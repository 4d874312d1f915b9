"""One real Kafka and one real Valkey for all tests that do not harm them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Project, wait_until
from proxy import Proxied, proxied_stack
from schemas import Registrar, running_registry
from servers import LENT, LentStack, address_file, lent, own_stack

from headrace.pipeline.embedded import Server, Stack


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack | LentStack]:
    if LENT in os.environ:
        yield lent(os.environ[LENT])
    elif hasattr(request.config, "workerinput"):
        wait_until(address_file(request.config).exists, what="the servers of this run", timeout_s=120)
        yield lent(address_file(request.config).read_text())
    else:
        with own_stack() as running:
            yield running


@pytest.fixture(scope="session")
def proxied() -> Iterator[Proxied]:
    """Another stack, whose servers the pipeline reaches through proxies that can be told what to do."""
    with proxied_stack() as running:
        yield running


@pytest.fixture
def project(stack: Stack, tmp_path: Path) -> Callable[..., Project]:
    def make(**options: Any) -> Project:
        return Project(stack, tmp_path / "project", **options)

    return make


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A schema registry; all tests that use it are in one group, so there is only one."""
    yield from running_registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def registrar(registry: Server) -> Iterator[Registrar]:
    registry.thaw()
    made = Registrar(registry)
    with made.client:
        yield made
