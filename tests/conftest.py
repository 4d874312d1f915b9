"""Its place puts `tests/` on the path, so that every test may import the corpus: `from hostile import REFUSED`."""

import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

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
