"""Holds back calls that mostly fail, so that those who wait get an answer at once. Pure: the time is an argument."""

from collections import deque

AT_ONCE_MAX = 100
_WINDOW_S = 10.0
_CALLS_MIN = 8
_SHARE = 0.25
_OPEN_S = 1.0
_KEPT_MAX = 1_000


class CallBreaker:
    """Allow calls until a quarter of the last ones have failed; then one try a second until one succeeds."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, bool]] = deque(maxlen=_KEPT_MAX)
        self._open_until = 0.0
        self.is_open = False
        self.under_way = 0

    def begin(self, now_s: float) -> bool:
        """Return whether a call may be made now, and count it as one that is under way."""
        if self.under_way >= AT_ONCE_MAX or (self.is_open and now_s < self._open_until):
            return False
        if self.is_open:
            # The one try: the others wait for its outcome.
            self._open_until = now_s + _OPEN_S
        self.under_way += 1
        return True

    def end(self, now_s: float, *, failed: bool) -> None:
        """Note the outcome of a call."""
        self.under_way -= 1
        if self.is_open and not failed:
            self.is_open = False
            self._calls.clear()
        self._calls.append((now_s, failed))
        while self._calls and self._calls[0][0] < now_s - _WINDOW_S:
            self._calls.popleft()
        failures = sum(one for _, one in self._calls)
        if failed and len(self._calls) >= _CALLS_MIN and failures >= _SHARE * len(self._calls):
            self.is_open, self._open_until = True, now_s + _OPEN_S
