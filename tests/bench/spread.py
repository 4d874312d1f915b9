"""What repeats are told as: the median, and the least and the most."""

import statistics
from collections.abc import Mapping, Sequence

Spread = Mapping[str, float]


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Return what is told of one figure of all repeats."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def told(of: Spread, form: str = ".2f", unit: str = "") -> str:
    """Write it for people."""
    return f"{of['median']:{form}}{unit} ({of['min']:{form}}-{of['max']:{form}})"
