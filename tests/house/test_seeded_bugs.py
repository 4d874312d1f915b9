"""The seeded bugs quote the source: each place that one breaks is there, once, and so is the test that it turns red."""

import ast
from collections.abc import Iterator
from typing import Any

from source import ROOT, tree
from verdict import assert_none

FIELDS = ("name", "file", "old", "new", "test", "says", "also")


def mutants() -> Iterator[dict[str, Any]]:
    for file in ("contracts/test_hardening_mutants.py", "contracts/test_model_mutants.py", "e2e/test_mutants.py"):
        for node in ast.walk(tree(ROOT / "tests" / file)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Mutant":
                given = dict(zip(FIELDS, node.args, strict=False)) | {k.arg: k.value for k in node.keywords if k.arg}
                yield {name: ast.literal_eval(value) for name, value in given.items()}


def test_every_seeded_bug_quotes_one_place_of_the_source() -> None:
    stale = (
        f"{mutant['name']}: {file} has it {found} times: {old[:60]!r}"
        for mutant in mutants()
        for file, old, *_ in filter(None, [(mutant["file"], mutant["old"]), mutant.get("also")])
        if (found := (ROOT / file).read_text(encoding="utf-8").count(old)) != 1
    )
    assert_none(stale, "places that are not there, or several times")


def test_every_seeded_bug_names_a_test_that_is_there() -> None:
    found = list(mutants())
    assert found
    lost = (
        f"{mutant['name']}: {mutant['test']}"
        for mutant in found
        if f"def {mutant['test'].partition('::')[2].partition('[')[0]}("
        not in (ROOT / "tests" / mutant["test"].partition("::")[0]).read_text(encoding="utf-8")
    )
    assert_none(lost, "tests that are not there")
