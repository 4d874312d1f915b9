"""How records are read is part of what a model is: the settings, and the code of the user's function."""

import importlib
import sys
from pathlib import Path

import pytest
from river import linear_model

from headrace.state.models import spec, user_code
from headrace.state.models.learner import RiverLearner
from headrace.state.models.spec import Reading

MODEL = linear_model.LogisticRegression()


def specs(reading: Reading | None) -> str:
    return RiverLearner(MODEL, reading=reading).spec


def test_the_default_way_to_read_records_leaves_no_trace_in_the_spec() -> None:
    assert specs(None) == specs(Reading()) == spec.describe(MODEL)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"flatten": True}),
        ({"flatten": True}, {}),
        ({"exclude": ("a",)}, {"exclude": ("a", "b")}),
        ({"ts": "at", "label": "x"}, {"ts": "at", "label": "y"}),
    ],
)
def test_a_changed_setting_is_another_model_and_the_setting_is_named(
    before: dict[str, object], after: dict[str, object]
) -> None:
    old, new = specs(Reading(before)), specs(Reading(after))
    [name] = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    assert spec.difference(old, new) == f"its records were read with another value of [records].{name}"
    told = spec.brief_difference(spec.brief(old, "partition"), new, "partition")
    assert told, "the mark shows it, too"
    if name in after:
        assert f"[records].{name}" in told


def test_the_code_of_a_function_that_reads_records_is_part_of_the_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for factor in (2, 3):
        for cached in (user_code.checksums, user_code.is_own, user_code._module):
            cached.cache_clear()
        importlib.invalidate_caches()
        sys.modules.pop("orders", None)
        (tmp_path / "orders.py").write_text(
            f"def total(order):\n    return price(order)\n\ndef price(order):\n    return order['n'] * {factor}\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        module = importlib.import_module("orders")
        found.append(specs(Reading(functions=(module.total,))))
    sys.modules.pop("orders", None)
    assert spec.difference(*found) == "the code of orders.price has changed"
