"""The watchdog: ends the process when a call of a C library hangs past its deadline.

Transaction calls of librdkafka were seen to ignore their timeouts when a broker dies. Python can't stop a thread that
hangs in C. So the process ends, and its parent starts another one. Some calls hang while they hold Python's lock, as a
client did that left the group while it joined. Then no thread of this process runs, and the kernel's alarm ends it.
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
    """Give each call `deadline_s` seconds, and the loop `silence_s` seconds between two signs of life.

    The thread of the watchdog can run during a call, because C code releases Python's lock.
    """

    def __init__(self, *, deadline_s: float, silence_s: float) -> None:
        self._silence_s = silence_s
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._calls: dict[str, float] = {}
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextlib.contextmanager
    def deadline(self, call: str) -> Iterator[None]:
        """End the process if the calls inside the context take longer than the deadline."""
        with self._lock:
            self._calls[call] = time.monotonic() + self._deadline_s
        try:
            yield
        finally:
            with self._lock:
                self._calls.pop(call, None)

    def alive(self) -> None:
        """Reset the alarm. The loop calls this all the time; if it stops, the alarm ends the process."""
        self.end_within(self._silence_s)

    def end_within(self, seconds: float) -> None:
        """End the process by SIGALRM after this number of seconds, whatever it is doing then."""
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
