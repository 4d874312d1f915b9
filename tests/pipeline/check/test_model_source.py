"""The text of model.py: it builds a model of the planned task, which takes records with missing features."""

from typing import Any

import pytest

from headrace.pipeline.check.model_source import ModelPlan, PlannedTask, model_source
from headrace.state.models import learner


def built(plan: ModelPlan) -> Any:
    names: dict[str, Any] = {}
    source = model_source(plan, topic="a")
    exec(compile(source, "model.py", "exec"), names)
    return learner.RiverLearner(names["build"]())


@pytest.mark.parametrize(
    ("task", "labels"),
    [("binary", [True, False]), ("multiclass", ["a", "b", "c"]), ("regression", [1.5, 900.0]), ("anomaly", [False])],
)
@pytest.mark.parametrize(
    "plan",
    [
        ModelPlan("binary", features=4, one_hot=["country"], hashed=["merchant"], codes=["store"]),
        ModelPlan("binary", features=1, has_numbers=True),
        ModelPlan("binary", features=1, has_numbers=False, one_hot=["country"]),
        ModelPlan("binary", features=1, has_numbers=False, hashed=["merchant"], buckets=1024),
        ModelPlan("binary", features=0, has_numbers=False),
        ModelPlan("binary", features=90, one_hot=[f'odd "{n}" \\ name' for n in range(40)], hashed=["a\nb", "ø"]),
    ],
)
def test_the_model_predicts_and_learns_records_with_missing_features(
    plan: ModelPlan, task: PlannedTask, labels: list[Any]
) -> None:
    model = built(ModelPlan(**{**{name: getattr(plan, name) for name in plan.__struct_fields__}, "task": task}))
    assert model.task == task
    for number, label in enumerate(labels * 5):
        features = {
            "amount": number * 1.5,
            "country": "NO",
            "merchant": f"m{number}",
            "store": number % 3,
            "known": True,
        }
        if number % 2:
            del features["amount"], features["country"], features["merchant"]
        model.predict(features)
        model.learn(features, label)
    assert model.dump()


def test_a_regressor_stays_finite_with_many_features_and_large_targets() -> None:
    model = built(ModelPlan("regression", features=1_000))
    for number in range(60):
        features = {f"f{k}": ((number * 37 + k * 101) % 97) / 9.7 for k in range(1_000)}
        answer, _ = model.predict(features)
        assert abs(answer) < 1e9
        model.learn(features, 1e6 + number)


def test_lines_are_short_enough_to_read() -> None:
    plan = ModelPlan(
        "binary", one_hot=[f"a_long_name_of_a_feature_{n}" for n in range(20)], hashed=["merchant"], features=21
    )
    assert max(map(len, model_source(plan, topic="a").splitlines())) <= 120
