"""River's own data through the real Kafka: every prediction equals offline River, test-then-train."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from harness import Project
from river import datasets, linear_model, preprocessing, tree

Make = Callable[..., Project]

SCALED = """
from river import linear_model, preprocessing

def build():
    return preprocessing.StandardScaler() | linear_model.{kind}()
"""
TREE = """
from river import tree

def build():
    return tree.HoeffdingTreeClassifier(grace_period=100)
"""


@pytest.mark.parametrize(
    ("data", "model", "offline"),
    [
        (
            datasets.Phishing,
            SCALED.format(kind="LogisticRegression"),
            lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        ),
        (
            datasets.TrumpApproval,
            SCALED.format(kind="LinearRegression"),
            lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
        ),
        (datasets.ImageSegments, TREE, lambda: tree.HoeffdingTreeClassifier(grace_period=100)),
    ],
    ids=["binary", "regression", "multiclass"],
)
def test_every_prediction_equals_offline_river(
    project: Make, data: Callable[[], Iterable[Any]], model: str, offline: Callable[[], Any]
) -> None:
    p = project(partitions=1, model=model)
    stream = list(data())
    p.produce([json.dumps({"features": x, "label": y}).encode() for x, y in stream], partition=0)
    p.run_to_end()
    answers = [json.loads(message.value()) for message in p.read(p.predictions)[0]]
    assert [a["source"]["offset"] for a in answers] == list(range(len(stream)))
    reference = offline()
    right = 0
    for answer, (x, y) in zip(answers, stream, strict=True):
        _compare(answer, reference, x)
        right += answer["prediction"] == y
        reference.learn_one(x, y)
    if data is datasets.Phishing:
        assert f"{right / len(stream):.2%}" == "89.28%", "the figure that River publishes"


def _compare(answer: dict[str, Any], reference: Any, x: dict[str, Any]) -> None:
    wanted = reference.predict_one(x)
    if "proba" not in answer:
        assert answer["prediction"] == pytest.approx(wanted, rel=1e-12, abs=1e-12)
        return
    assert answer["prediction"] == wanted
    proba = {str(label).lower() if isinstance(label, bool) else label: p for label, p in _proba(reference, x).items()}
    assert answer["proba"] == pytest.approx(proba, rel=1e-12, abs=1e-12)


def _proba(reference: Any, x: dict[str, Any]) -> dict[Any, float]:
    return dict(reference.predict_proba_one(x))
