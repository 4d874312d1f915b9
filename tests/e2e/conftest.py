"""One real Kafka and one real Valkey for all tests that do not harm them."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import LENT, Project
from proxy import Proxied, proxied_stack

from headrace.pipeline.embedded import Addresses, Stack


@dataclass(frozen=True)
class LentStack:
    """A stack that another run of the tests started, and ends."""

    addresses: Addresses


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack | LentStack]:
    if LENT in os.environ:
        kafka, store = os.environ[LENT].split()
        yield LentStack(Addresses(kafka, store, "kafka"))
        return
    # A zombie's open transaction is looked for each second, not each ten.
    with Stack(kafka_settings={"transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000"}) as running:
        assert running.addresses.kind == "kafka", "these tests prove nothing on a mock"
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
