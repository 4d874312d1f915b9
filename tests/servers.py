"""One Kafka and one Valkey for all tests that do not harm them, also in the several processes of one run.

Each broker costs ten seconds of CPU and a few percent of a core for as long as it runs. So the process that distributes
the tests starts the servers, when it sees that some tests may need them, and tells the others by a file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace.pipeline.embedded import Addresses, EmbeddedError, Stack

LENT = "HEADRACE_TEST_STACK"
"""The environment variable by which one run of the tests lends its Kafka and store to another run."""
FAILED = "the servers of this run did not start: "


@dataclass(frozen=True)
class LentStack:
    """A stack that another process started, and ends."""

    addresses: Addresses


@contextmanager
def own_stack() -> Iterator[Stack]:
    # A zombie's open transaction is looked for each second, not each ten.
    with Stack(kafka_settings={"transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000"}) as running:
        assert running.addresses.kind == "kafka", "these tests prove nothing on a mock"
        yield running


def lent(text: str) -> LentStack:
    assert not text.startswith(FAILED), text
    kafka, store = text.split()
    return LentStack(Addresses(kafka, store, "kafka"))


def address_file(config: Any) -> Path:
    """Return the file with the addresses: it lies in the folder that holds the temporary folders of all processes."""
    place: Path = config._tmp_path_factory.getbasetemp()
    return (place.parent if hasattr(config, "workerinput") else place) / "stack"


class Lender:
    """Starts the servers in the process that distributes the tests."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        file = address_file(node.config)
        if file.exists() or not any(id_.startswith("tests/e2e/") for id_ in ids):
            return
        running = own_stack()
        try:
            addresses = running.__enter__().addresses
        except (EmbeddedError, AssertionError) as error:
            # The tests that ask for the servers fail with this; all others go on.
            text = f"{FAILED}{error}"
        else:
            node.config.add_cleanup(lambda: running.__exit__(None, None, None))
            text = f"{addresses.kafka} {addresses.redis}"
        written = file.with_suffix(".part")
        written.write_text(text)
        written.replace(file)
