"""Bugs that are seeded into the locks, one at a time, and the test that each turns red.

A lock is a check of bytes that somebody else may have written: in the store, in a topic, in a file. None of these
needs a broker; those that do stand in `tests/e2e/test_mutants.py`.
"""

from pathlib import Path

import pytest
from mutant import Mutant, assert_caught

MUTANTS: list[Mutant] = []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_seeded_bug_turns_its_test_red(mutant: Mutant, tmp_path: Path) -> None:
    assert_caught(mutant, tmp_path)
