"""The watchdog: ends the process when a call of a C library hangs past its deadline.

librdkafka's transaction calls have been seen to ignore their own timeouts when a broker dies. A thread that
hangs in C can't be stopped from Python, so the process goes, and its parent starts another. Some calls hang with
Python's own lock in their hands (a client that left the group while it joined was seen to), and then no thread of
this process runs: for these there is the kernel's alarm.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from headrace.pipeline.exit_code import EXIT_HUNG


class Watchdog:
    """Give each call `deadline_s` seconds, and the loop `silence_s` between two signs of life.

    The thread runs while a call does not return, since C frees the lock.
    """

    def __init__(self, *, deadline_s: float, silence_s: float) -> None:
        self._silence_s = silence_s
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._calls: dict[str, float] = {}
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextlib.contextmanager
    def deadline(self, call: str) -> Iterator[None]:
        """Bound what is called within the context, or end the process."""
        with self._lock:
            self._calls[call] = time.monotonic() + self._deadline_s
        try:
            yield
        finally:
            with self._lock:
                self._calls.pop(call, None)

    def alive(self) -> None:
        """Put the alarm off, as the loop does all the while; when it has not for long, the process ends."""
        self.end_within(self._silence_s)

    def end_within(self, seconds: float) -> None:
        """End the process by SIGALRM after this many seconds, whatever it does, unless it has ended by then."""
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self._deadline_s / 4))
            with self._lock:
                hung = [call for call, until in self._calls.items() if time.monotonic() > until]
            if hung:
                sys.stderr.write(f"headrace: {hung[0]} hangs; the worker ends and is started again\n")
                sys.stderr.flush()
                os._exit(EXIT_HUNG)
