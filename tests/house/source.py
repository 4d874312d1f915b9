"""The source as the rules of the house read it: files, syntax trees, and which of our modules imports which."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = "headrace"
PACKAGES = ("consumers", "producers", "state", "pipeline")


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def modules() -> dict[str, Path]:
    """Return the file of each module, by its name below `headrace`; a package's is its `__init__.py`."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return {
        ".".join((file.parent if file.stem == "__init__" else file.with_suffix("")).relative_to(ROOT).parts): file
        for file in files
    }


def packages() -> dict[str, Path]:
    return {name: file.parent for name, file in modules().items() if file.stem == "__init__"}


def ours(name: str) -> str:
    """Return a module's name without `headrace.`, and nothing for a module that is not ours."""
    return name.removeprefix(f"{NAME}.") if name.startswith(f"{NAME}.") else ""


@cache
def imported() -> dict[str, set[str]]:
    """Return the modules that each module imports, late imports and those by name among them."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, file in modules().items():
        for node in ast.walk(tree(file)):
            found[name] |= {ours(module) for module in _imports(node)} & modules().keys()
        found[name].discard(name)
    return found


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        inner = {f"{node.module}.{alias.name}" for alias in node.names}
        modular = {name for name in inner if ours(name) in modules()}
        yield from modular
        if len(modular) < len(inner):
            yield node.module
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module" and node.args:
        name = node.args[0]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            yield name.value
