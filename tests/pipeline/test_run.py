"""Which ordinals the workers of a run have."""

import pytest

from pipeline.config import ConfigError
from pipeline.run import ordinals


def test_the_workers_of_a_machine_that_has_a_number_are_always_the_same_and_no_other_ones() -> None:
    assert [list(ordinals(str(machine), workers=4)) for machine in range(3)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]


@pytest.mark.parametrize("given", [None, ""])
def test_workers_agree_on_theirs_where_the_machine_has_no_number(given: str | None) -> None:
    assert list(ordinals(given, workers=2)) == [None, None]


@pytest.mark.parametrize("given", ["one", "-1", "64", "128", "1.0"])
def test_a_number_of_the_machine_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=f"HEADRACE_ORDINAL is '{given}', and no number below 64") as refused:
        ordinals(given, workers=2)
    assert refused.value.hint
