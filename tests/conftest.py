"""Its place puts `tests/` on the path, so that every test may import the corpus: `from hostile import REFUSED`."""

from hypothesis import settings

# Slow machines are no failure, and a failure must be the same for everyone who runs the tests.
settings.register_profile("headrace", deadline=None, derandomize=True, database=None)
settings.load_profile("headrace")
