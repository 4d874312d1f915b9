"""A user's own modules may have any name, beside `model.py` or installed: those of Headrace's folders, too."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import oracle
import pytest
from harness import PATIENCE_S, Project, values

pytestmark = pytest.mark.kafka

OWN = '''
from river import base


class Seen:
    """Made when the model learns only: no new model holds one."""

    def __init__(self):
        self.count = 0


class Recent(base.Transformer):
    """Adds to the features how often each was seen."""

    def __init__(self):
        self.seen = {}

    def learn_one(self, x):
        for name in x:
            self.seen.setdefault(name, Seen()).count += 1

    def transform_one(self, x):
        return {**x, **{f"{name} seen": min(seen.count, 8) / 8 for name, seen in self.seen.items()}}
'''
MODEL = """
from river import linear_model, preprocessing

import {name}


def build():
    return {name}.Recent() | preprocessing.StandardScaler() | linear_model.LogisticRegression()
"""


def headrace(project: Project, *words: str, site: Path) -> str:
    """Run a command as a user does: in the project's folder, with an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "headrace", *words],
        cwd=project.directory,
        env={**project.env, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_of(file: Path) -> Callable[[], Any]:
    """Return what builds the model with plain River: the user's module is loaded under a name of the test's."""
    spec = importlib.util.spec_from_file_location("own_module", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda: module.Recent() | oracle.logistic()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("pipeline", "project/pipeline.py"),
        ("consumers", "project/consumers/__init__.py"),
        ("producers", "site-packages/producers/__init__.py"),
    ],
)
def test_a_module_named_like_a_folder_of_headrace_is_the_users(
    project: Callable[..., Project], tmp_path: Path, name: str, file: str
) -> None:
    module, site = tmp_path / file, tmp_path / "site-packages"
    module.parent.mkdir(parents=True, exist_ok=True)
    module.write_text(OWN)
    settings = {"HEADRACE__MODEL__TRUSTED_PACKAGES": '["producers"]'} if site in module.parents else {}
    made = project(model=MODEL.format(name=name), settings=settings)
    # The second run loads what the first has saved.
    for seed in (1, 2):
        for partition in range(made.partitions):
            made.produce(values(50, seed=seed), partition=partition)
        headrace(made, "run", "--until-end", site=site)
    made.check(build_of(module))
    shown = headrace(made, "model", "show", "0", site=site)
    assert f"{name}.Recent" in shown
