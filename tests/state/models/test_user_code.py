"""What counts as a change of the user's code, and what does not."""

import ast
import importlib
import importlib.util
import py_compile
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from river import compose, linear_model, optim

from headrace.state.models import spec
from headrace.state.models.learner import RiverLearner
from headrace.state.models.user_code import UNREAD, _dump, _Plain

Specs = Callable[..., str]

MODEL = '''
import functools
import math
import helpers
from helpers import scaled as shrink
from river import base, compose, linear_model

LIMIT = 3
TABLE = {"a": 1.0}

def clip(x):
    """Cut what is too large."""
    return {name: min(value, LIMIT) for name, value in x.items()}

def unused(x):
    return x

def total(x, factor=LIMIT):
    return {"total": shrink(sum(x.values())) * factor + helpers.shift(1) + math.pi + TABLE["a"]}

class Log(base.Transformer):
    def __init__(self, base=2):
        self.base = base

    def transform_one(self, x):
        return {name: self._log(value) for name, value in x.items()}

    def _log(self, value):
        return math.log(1 + abs(value), self.base)

class Twice:
    def __init__(self, by):
        self._by = by

    def __call__(self, x):
        return {name: self._by * value for name, value in x.items()}

def part(x, name):
    return {name: x.get(name, 0)}

def build():
    return (
        compose.FuncTransformer(clip) + compose.FuncTransformer(total) + Log() + compose.FuncTransformer(Twice(2))
        + compose.FuncTransformer(functools.partial(part, name="a"))
    ) | linear_model.LogisticRegression()
'''

HELPERS = """
from inner.deep import RATE as rate, bend

def scaled(value):
    return value * rate

def shift(value):
    from inner import late
    return late.late(value) + bend(value)

def other(value):
    return value
"""

DEEP = """
RATE = 0.5

def bend(value):
    return value

def lonely(value):
    return value
"""

LATE = """
def late(value):
    return value + 1
"""

FILES = {
    "model.py": MODEL,
    "helpers.py": HELPERS,
    "inner/__init__.py": "",
    "inner/deep.py": DEEP,
    "inner/late.py": LATE,
}


@pytest.fixture
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Specs:
    """Return what gives the spec of a project after a change of one of its files."""
    count = 0

    def made(file: str = "model.py", old: str = "", new: str = "") -> str:
        nonlocal count
        count += 1
        directory = tmp_path / f"{count}"
        for name, text in FILES.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            assert name != file or old in text
            (directory / name).write_text(text.replace(old, new, 1) if name == file and old else text)
        return _spec_of(directory, monkeypatch)

    return made


def _spec_of(directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Build the model of a folder as a process of its own would."""
    from headrace.state.models import user_code  # noqa: PLC0415 its memory is emptied

    with monkeypatch.context() as patch:
        patch.syspath_prepend(directory)
        for name in [name for name in sys.modules if name.partition(".")[0] in {"model", "helpers", "inner"}]:
            patch.delitem(sys.modules, name)
        for cached in (user_code.checksums, user_code.is_own, user_code._module):
            cached.cache_clear()
        importlib.invalidate_caches()
        found = RiverLearner(importlib.import_module("model").build(), trusted=frozenset({"model"})).spec
        for name in [name for name in sys.modules if name.partition(".")[0] in {"model", "helpers", "inner"}]:
            del sys.modules[name]
    for cached in (user_code.checksums, user_code.is_own, user_code._module):
        cached.cache_clear()
    return found


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("model.py", "min(value, LIMIT)", "max(value, LIMIT)", "model.clip"),
        ("model.py", "LIMIT = 3", "LIMIT = 4", "model.LIMIT"),
        ("model.py", '{"a": 1.0}', '{"a": 2.0}', "model.TABLE"),
        ("model.py", "factor=LIMIT", "factor=7", "model.total"),
        ("model.py", "1 + abs(value)", "2 + abs(value)", "model.Log"),
        ("model.py", "self._by * value", "self._by + value", "model.Twice"),
        ("model.py", "x.get(name, 0)", "x.get(name, 1)", "model.part"),
        ("model.py", "def build", 'TABLE["b"] = 3.0\n\ndef build', "model.TABLE"),
        ("helpers.py", "value * rate", "value / rate", "helpers.scaled"),
        ("helpers.py", "late.late(value) +", "late.late(value) -", "helpers.shift"),
        ("inner/deep.py", "RATE = 0.5", "RATE = 0.25", "inner.deep.RATE"),
        ("inner/deep.py", "return value", "return -value", "inner.deep.bend"),
        ("inner/late.py", "value + 1", "value + 2", "inner.late.late"),
    ],
)
def test_a_change_of_what_the_model_rests_on_is_told_by_name(
    specs: Specs, file: str, old: str, new: str, named: str
) -> None:
    before, after = specs(), specs(file, old, new)
    assert spec.difference(before, after) == f"the code of {named} has changed"
    told = spec.brief(before, "partition")
    assert spec.brief_difference(told, after, "partition") == f"the code of {named} is new or has changed"
    assert spec.brief_difference(told, before, "partition") == ""


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("model.py", '    """Cut what is too large."""\n', ""),
        ("model.py", "def clip(x):", "# Words.\n\n\ndef clip(x: dict) -> dict:"),
        ("model.py", "LIMIT = 3", "LIMIT: int = 3  # three"),
        ("model.py", "min(value, LIMIT)", "min(\n        value,\n        LIMIT,\n    )"),
        ("model.py", "def unused(x):\n    return x", "def unused(x):\n    return 1"),
        ("helpers.py", "def other(value):\n    return value", "def other(value):\n    return 1"),
        ("inner/deep.py", "def lonely", "def lonelier"),
    ],
)
def test_comments_layout_annotations_and_what_is_not_used_are_no_change(
    specs: Specs, file: str, old: str, new: str
) -> None:
    assert specs() == specs(file, old, new)


def test_the_arguments_of_an_object_count_too(specs: Specs) -> None:
    assert spec.difference(specs(), specs("model.py", "Twice(2)", "Twice(3)")) == "by=2 became by=3"
    assert spec.difference(specs(), specs("model.py", "Log()", "Log(10)")) == "base=2 became base=10"
    assert "name='a' became name='b'" in spec.difference(specs(), specs("model.py", 'name="a"', 'name="b"'))


def test_a_table_that_is_read_from_a_file_counts_by_its_value(specs: Specs, tmp_path: Path) -> None:
    source = f'import json\nfrom pathlib import Path\nTABLE = json.loads(Path("{tmp_path}/table.json").read_text())'
    found = []
    for rate in (1, 1, 2):
        (tmp_path / "table.json").write_text(f'{{"a": {rate}}}')
        found.append(specs("model.py", 'TABLE = {"a": 1.0}', source))
    assert found[0] == found[1]
    said = spec.difference(found[0], found[2])
    assert said == "the code of model.TABLE (a value that is computed when its module is loaded) has changed"


def test_code_without_a_source_is_named_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    py_compile.compile(str(tmp_path / "model.py"), cfile=str(tmp_path / "model.pyc"))
    (tmp_path / "model.py").unlink()
    found = _spec_of(tmp_path, monkeypatch)
    assert "model.clip" in spec.unread(found)
    assert UNREAD in found


def test_only_rivers_own_parts_need_no_code() -> None:
    assert "\n" not in RiverLearner(linear_model.LogisticRegression(optimizer=optim.SGD(0.1))).spec


def test_a_whole_module_that_is_handed_on_counts_as_a_whole(specs: Specs) -> None:
    before = specs("model.py", "helpers.shift(1)", 'getattr(helpers, "shift")(1)')
    assert "helpers.other " in before


def test_parts_that_differ_are_shown(specs: Specs) -> None:
    after = specs("model.py", "linear_model.LogisticRegression()", "linear_model.LogisticRegression(l2=0.1)")
    assert spec.difference(specs(), after) == "l2=0.0 became l2=0.1"
    told = spec.brief(specs(), "partition")
    assert "parameters" in spec.brief_difference(told, after, "partition")
    assert "model.scope" in spec.brief_difference(told, specs(), "key")


def test_a_brief_is_short(specs: Specs) -> None:
    long = specs() + "".join(f"\nmodel.f{index} abc" for index in range(500))
    assert len(spec.brief(long, "partition")) < 20
    assert spec.brief_difference(spec.brief(specs(), "partition"), long, "partition")


class Own(compose.FuncTransformer):
    """A subclass of River's, in a module of the user's."""


def listed(x: dict[str, Any]) -> dict[str, Any]:
    return x


def test_a_subclass_of_rivers_and_what_it_was_given_are_found() -> None:
    lines = RiverLearner(Own(listed) | linear_model.LogisticRegression()).spec.split("\n")[1:]
    assert [line.partition(" ")[0].partition(".")[2] for line in lines] == ["Own", "listed"]


def test_an_empty_text_in_a_formatted_one_is_no_difference() -> None:
    """Python 3.12.0 and 3.12.1 have one there, and two releases must come to the same checksums."""
    plain, odd = (ast.parse("f'{a:>{b}} c'") for _ in range(2))
    spec_of = odd.body[0].value.values[0].format_spec  # type: ignore[attr-defined]
    spec_of.values.append(ast.Constant(""))
    assert ast.dump(plain) != ast.dump(odd)
    assert _dump(_Plain().visit(plain)) == _dump(_Plain().visit(odd))
