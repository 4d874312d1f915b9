import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.producers.prediction import ModelVersion, SourceRecord, class_name, encode

MODEL = ModelVersion("fraud", 17, 3)
SOURCE = SourceRecord("features", 3, 1_042)


def told(prediction: Any, proba: Any = None, id_: str = "t-1", ts: int = 1_700_000_000_005) -> dict[str, Any]:
    value = encode(id_=id_, prediction=prediction, proba=proba, model=MODEL, source=SOURCE, ts=ts)
    return json.loads(value, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_prediction_is_what_the_contract_shows() -> None:
    assert told(prediction=True, proba={False: 0.07, True: 0.93}) == {
        "id": "t-1",
        "prediction": True,
        "proba": {"false": 0.07, "true": 0.93},
        "model": {"name": "fraud", "version": 17, "generation": 3},
        "source": {"topic": "features", "partition": 3, "offset": 1_042},
        "ts": 1_700_000_000_005,
    }


def test_a_regression_has_no_probabilities() -> None:
    assert "proba" not in told(2.5)
    assert told(2.5)["prediction"] == 2.5


def test_a_classifier_that_has_seen_nothing_answers_null_and_no_classes() -> None:
    assert (told(None, {})["prediction"], told(None, {})["proba"]) == (None, {})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float64("nan"), np.float32("inf")])
def test_a_number_that_is_not_finite_is_null(number: Any) -> None:
    assert told(number)["prediction"] is None
    assert told("a", {"a": number})["proba"] == {"a": None}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3),
        (np.bool_(1), True),
        (np.str_("sky"), "sky"),
        (np.array([2.5]), 2.5),
        (-0.0, 0.0),
        (2**70, 2**70),
        ("ουρανός 😀", "ουρανός 😀"),
    ],
)
def test_answers_of_numpy_and_large_ones_are_plain_json(answer: Any, expected: Any) -> None:
    found = told(answer)["prediction"]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("answer", [1j, object(), np.array([1, 2]), "\ud800"])
def test_an_answer_that_json_can_not_hold_raises(answer: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        told(answer)


@pytest.mark.parametrize(
    ("label", "name"),
    [(True, "true"), (False, "false"), (1, "1"), (0, "0"), (-7, "-7"), ("1", "1"), ("", ""), ("true", "true")],
)
def test_classes_are_named_in_the_words_of_json(label: Any, name: str) -> None:
    assert class_name(label) == name


@pytest.mark.parametrize(
    ("label", "name"),
    [(np.True_, "true"), (np.False_, "false"), (np.int64(7), "7"), (np.str_("sky"), "sky"), (np.float64(1.5), "1.5")],
)
def test_numpy_scalars_as_classes_are_named_as_pythons_are(label: Any, name: str) -> None:
    assert class_name(label) == name
    whole = told(label, {label: 1.0})
    assert whole["proba"] == {name: 1.0}
    assert whole["prediction"] == label.item()


def test_whole_numbers_as_classes_are_named_by_their_digits() -> None:
    assert told(1, {0: 0.25, 1: 0.75})["proba"] == {"0": 0.25, "1": 0.75}


@settings(max_examples=60)
@given(
    id_=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    number=st.floats(allow_nan=False, allow_infinity=False),
    proba=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.floats(0, 1), max_size=4),
)
def test_ids_numbers_and_classes_come_back_to_the_bit(id_: str, number: float, proba: dict[str, float]) -> None:
    found = told(number, proba, id_)
    assert (found["id"], found["proba"]) == (id_, proba)
    assert math.copysign(1, found["prediction"]) == math.copysign(1, number)
    assert found["prediction"] == number
