"""Times as RFC 3339 has them."""

import datetime as dt

from headrace.pipeline.console import utc


def rfc3339(at_ms: int) -> str:
    """Return a time in ms since 1970, in UTC; its digits where no date has this number."""
    try:
        return (
            dt.datetime.fromtimestamp(at_ms / 1_000, tz=dt.UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z")
        )
    except (ValueError, OverflowError, OSError):
        return utc(at_ms)
