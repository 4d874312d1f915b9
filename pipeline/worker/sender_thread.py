"""The courier: waits for Kafka on the loop's behalf, in a thread of its own, one call at a time.

The loop alone begins such a call and hears how it went, so there is nothing to lock.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class SenderThread:
    """Run one call at a time. `is_out` from when it is sent until its result is heard."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="courier")
        self._call: Future[None] | None = None

    @property
    def is_out(self) -> bool:
        """Whether there is a call whose result was not heard."""
        return self._call is not None

    @property
    def is_back(self) -> bool:
        """Whether the call has ended."""
        return self._call is not None and self._call.done()

    def send(self, call: Callable[[], None]) -> None:
        """Begin a call; the one before was heard of."""
        assert self._call is None
        self._call = self._thread.submit(call)

    def wait(self, seconds: float) -> bool:
        """Wait for the call to end, so long at most; tell whether it has."""
        return self._call is None or bool(wait([self._call], seconds).done)

    def hear(self) -> None:
        """Return when the call has ended well; raises what it raised."""
        assert self._call is not None
        call, self._call = self._call, None
        call.result()
