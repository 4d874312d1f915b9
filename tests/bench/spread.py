"""The summary of repeats: the median, the minimum and the maximum."""

import statistics
from collections.abc import Mapping, Sequence

Spread = Mapping[str, float]


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Return the median, minimum and maximum of a figure over all repeats."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def told(of: Spread, form: str = ".2f", unit: str = "") -> str:
    """Format a spread for people."""
    return f"{of['median']:{form}}{unit} ({of['min']:{form}}-{of['max']:{form}})"
