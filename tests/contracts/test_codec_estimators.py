"""The model codec over every estimator of River: what was saved goes on as what was not, to the bit."""

import gc
import types
import warnings
from collections import Counter
from typing import Any

import pytest
from every import CONTINUED, MORE, TRAINED, build, makers, records, teach

from headrace.state.models.codec.model_codec import ModelCodec

MAKERS = dict(makers())
# Parts of these draw random numbers without a seed, whatever their own is.
UNSEEDED = {"cluster.CluStream[0]", "cluster.STREAMKMeans[0]"}


@pytest.mark.parametrize("name", MAKERS)
def test_what_was_saved_goes_on_as_what_was_not(name: str) -> None:
    make = MAKERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build(name, make)
        if model is None:
            assert name.rpartition("[")[0].rpartition(".")[2] in {m.partition(" ")[0] for m in MORE} | NOT_HERE, name
            return
        rows = records(model, TRAINED + CONTINUED)
        teach(model, rows[:TRAINED])
        codec = ModelCodec(make())
        saved = codec.dump(("kind", model))
        assert saved is not None
        known, loaded = codec.load(saved)
        assert known == "kind"
        assert codec.dump(("kind", loaded)) == saved
        if name not in UNSEEDED:
            assert teach(loaded, rows[TRAINED:]) == teach(model, rows[TRAINED:])


# ZstdClassifier needs Python 3.14; River's own parameters of SuccessiveHalvingClassifier lack one.
NOT_HERE = {"ZstdClassifier", "SuccessiveHalvingClassifier"}


def test_all_of_river_is_here() -> None:
    assert len(MAKERS) > 170
    assert {name.partition(".")[0] for name in MAKERS} >= {"tree", "forest", "linear_model", "anomaly", "preprocessing"}


def _census(root: Any) -> Counter[str]:
    """Count the objects that a model is made of, each once, by class."""
    seen: set[int] = set()
    found: Counter[str] = Counter()
    stack = [root]
    while stack:
        part = stack.pop()
        if id(part) in seen or isinstance(part, type | types.ModuleType | types.FunctionType):
            continue
        seen.add(id(part))
        if type(part).__module__.startswith("river."):
            found[type(part).__qualname__] += 1
        stack += gc.get_referents(part)
    return found


@pytest.mark.parametrize(
    "name", ["forest.ARFClassifier[0]", "tree.HoeffdingAdaptiveTreeRegressor[0]", "rules.AMRules[0]"]
)
def test_what_two_parts_share_they_share_again(name: str) -> None:
    model = MAKERS[name]()
    teach(model, records(model, TRAINED))
    codec = ModelCodec(MAKERS[name]())
    _, loaded = codec.load(codec.dump(("", model)) or b"")
    assert _census(loaded) == _census(model)
