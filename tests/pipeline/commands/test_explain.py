"""`model explain` tells what a model runs as, whatever scope and topics the configuration has."""

import json
from pathlib import Path

import pytest

from headrace.pipeline.commands.explain import explain
from headrace.pipeline.config import config as configuration

MODEL = "from river import linear_model\n\ndef build():\n    return linear_model.LogisticRegression()\n"


@pytest.mark.parametrize("labels", ["", 'labels = "truths"\n'], ids=["", "labels topic"])
@pytest.mark.parametrize("scope", ["partition", "key", "global"])
def test_a_model_is_compiled_in_each_scope_with_and_without_a_labels_topic(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], scope: str, labels: str
) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    file = tmp_path / "headrace.toml"
    file.write_text(f'name = "fraud"\n[topics]\n{labels}[model]\nscope = "{scope}"\n')
    assert explain(configuration.load(file, flags={}), json=True) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["runs_as"], told["reason"]) == ("compiled", "")


TREE = "from river import tree\n\ndef build():\n    return tree.HoeffdingTreeClassifier()\n"


@pytest.mark.parametrize("scope", ["partition", "key"])
def test_a_model_that_river_runs_has_the_reason_in_each_scope(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], scope: str
) -> None:
    (tmp_path / "model.py").write_text(TREE)
    file = tmp_path / "headrace.toml"
    file.write_text(f'name = "fraud"\n[model]\nscope = "{scope}"\n')
    assert explain(configuration.load(file, flags={}), json=True) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["runs_as"], told["reason"]) == ("river", "HoeffdingTreeClassifier: trees are not compiled")
