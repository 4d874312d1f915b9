"""How the rules of the house report: every offender on a line of its own, however many there are."""

from collections.abc import Iterable


def assert_none(offenders: Iterable[str], rule: str) -> None:
    lines = sorted(set(offenders))
    assert not lines, "\n  ".join([f"{rule}:", *lines])
