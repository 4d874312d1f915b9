"""The census of River's estimators: each one does what docs/models.json says."""

import json
from collections import Counter

import pytest
from census import FILE, Verdict, classes, verdict

MAKES = classes()
TOLD = {row["name"]: Verdict(**row) for row in json.loads(FILE.read_text())}


@pytest.mark.parametrize("name", MAKES)
def test_an_estimator_does_what_the_table_says(name: str) -> None:
    assert verdict(name, MAKES[name]) == TOLD[name], "run `make docs`, and read what has changed"


def test_the_table_has_all_of_river_and_most_of_it_runs() -> None:
    assert TOLD.keys() == MAKES.keys()
    runs = Counter(told.runs for told in TOLD.values())
    assert runs["river"] + runs["compiled"] > 10 * runs["no"]
    assert {told.task for told in TOLD.values()} >= {
        *("binary", "multiclass", "regression", "multilabel", "multitarget"),
        *("anomaly", "clustering", "forecasting", "recommendation", "step"),
    }


def test_what_does_not_run_says_why() -> None:
    assert all(bool(told.why) == (told.runs == "no") for told in TOLD.values())
