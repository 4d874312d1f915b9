"""Times of events, in ms since 1970: which can be one, and when a key was seen by them."""

from typing import Any

_AHEAD_MS = 10 * 365 * 86_400_000


def is_time(at_ms: Any, logged_ms: Any) -> Any:
    """Tell whether an event time can be one: far past the log's it is a mistake, such as microseconds.

    A single one of those would end every wait, and no later one ever again. Arrays of times are told of each.
    """
    return (logged_ms <= 0) | (at_ms - _AHEAD_MS <= logged_ms)


def seen_ms(at_ms: int | None, logged_ms: int) -> int:
    """Return when a key was seen, by its event, else by the log; -1 for a time that is none, which moves no clock."""
    if at_ms is None:
        return logged_ms
    return at_ms if is_time(at_ms, logged_ms) else -1


def seen_all_ms(at_ms: Any, logged_ms: Any) -> Any:
    """Return what `seen_ms` does for each of many, as int64; one below zero is a time that was not told."""
    seen, told = logged_ms.copy(), at_ms >= 0
    seen[told] = at_ms[told]
    seen[told & ~is_time(at_ms, logged_ms)] = -1
    return seen
