"""Finds the user's own modules: the files beside the configuration that Python really imports from there."""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

_OURS = "headrace"
# Common folder names in projects; some libraries install folders of these names, too.
_HARMLESS = frozenset({"benchmarks", "conftest", "docs", "examples", "scripts", "setup", "test", "tests"})


def modules_beside(directory: Path) -> frozenset[str]:
    """Return the names of the modules in a project's folder; saved models may refer to them.

    A module that was imported from another folder is not among them.
    """
    return frozenset(name for name in _stems(directory) if _is_beside(name, directory))


def shadowing(directory: Path) -> str:
    """Return a file or folder of the project that hides a module of Headrace, Python or a library; "" if none does."""
    elsewhere = [path for path in sys.path if Path(path or ".").resolve() != directory.resolve()]
    for name in sorted(_stems(directory) - _HARMLESS):
        found = f"{name}.py" if (directory / f"{name}.py").is_file() else name
        if name == _OURS or name in sys.stdlib_module_names:
            return found
        spec = PathFinder.find_spec(name, elsewhere)
        if spec is not None and spec.loader is not None and not _lies_in(spec.origin, directory):
            return found
    return ""


def _stems(directory: Path) -> frozenset[str]:
    return frozenset(path.stem for path in directory.glob("*.py")) | frozenset(
        path.parent.name for path in directory.glob("*/__init__.py")
    )


def _is_beside(name: str, directory: Path) -> bool:
    module = sys.modules.get(name)
    return name != _OURS and (module is None or _lies_in(getattr(module, "__file__", None), directory))


def _lies_in(file: str | None, directory: Path) -> bool:
    return file is not None and Path(file).resolve().is_relative_to(directory.resolve())
