"""One call at a time in a thread of its own, so that the loop can wait for Kafka or the store and go on meanwhile.

The loop alone starts a call and takes its result, so there is nothing to lock.
"""

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class BackgroundCall:
    """Run one call at a time. It is `running` from its start until its `result` is taken."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._call: Future[None] | None = None

    @property
    def running(self) -> bool:
        """Whether a call was started whose result was not taken."""
        return self._call is not None

    @property
    def ended(self) -> bool:
        """Whether the call has ended and its result can be taken."""
        return self._call is not None and self._call.done()

    def start(self, call: Callable[[], None]) -> None:
        """Start a call. The result of the one before must have been taken."""
        assert self._call is None
        # Its log lines name the worker, as those of the loop do.
        self._call = self._thread.submit(contextvars.copy_context().run, call)

    def wait(self, seconds: float) -> bool:
        """Wait for the call for at most this time; tell whether it has ended."""
        return self._call is None or bool(wait([self._call], seconds).done)

    def result(self) -> None:
        """Take the result: return when the call has ended well, and raise the error that it raised."""
        assert self._call is not None
        call, self._call = self._call, None
        call.result()
