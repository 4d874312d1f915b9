"""The folders: how many files each holds, what its docstring says, and that imports go one way."""

import ast
import re
from collections import defaultdict
from pathlib import Path

from source import PACKAGES, ROOT, imported, modules, packages, tree
from verdict import assert_none

FILES_A_FOLDER_MAX = 17


def unit(module: str, package: str) -> str:
    """Return the file or folder of a package that a module of it lies in; the package itself for its `__init__`."""
    inner = module.removeprefix(f"{package}.")
    return package if module == package else f"{package}.{inner.partition('.')[0]}"


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def importers(package: str) -> set[str]:
    """Name those who import a package from outside: our own folder's files and folders, or another top folder."""
    parent, top = package.rpartition(".")[0], package.partition(".")[0]
    found = set()
    for module, names in imported().items():
        if within(module, package) or not any(within(name, package) for name in names):
            continue
        level = parent
        while not within(module, level) and level:
            level = level.rpartition(".")[0]
        found.add(unit(module, level) if level and within(module, top) else module.partition(".")[0])
    return found


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Return names that import one another in a circle, and nothing where there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(edges.get(name, ())):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := visit(name, []))), [])


def test_no_folder_has_more_modules_than_one_can_keep_in_mind() -> None:
    counts = {
        name: len([f for f in folder.glob("*.py") if f.stem != "__init__"]) for name, folder in packages().items()
    }
    crowded = (f"{name}: {count} files" for name, count in counts.items() if count > FILES_A_FOLDER_MAX)
    assert_none(crowded, f"folders of more than {FILES_A_FOLDER_MAX} modules")


def test_imports_go_one_way_within_every_folder() -> None:
    circles = []
    for package in packages():
        edges: dict[str, set[str]] = defaultdict(set)
        for module, names in imported().items():
            if within(module, package):
                here = unit(module, package)
                edges[here] |= {unit(name, package) for name in names if within(name, package)} - {here}
        if found := cycle(edges):
            circles.append(" imports ".join(found))
    assert_none(circles, "files or folders that import one another in a circle")


def test_a_circle_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_every_inner_folder_says_in_its_docstring_who_imports_it() -> None:
    wrong = []
    for package, folder in packages().items():
        if "." not in package:
            continue
        text = " ".join((ast.get_docstring(tree(folder / "__init__.py")) or "").split())
        said = set(re.findall(r"`([\w.]+)`", text.rpartition("Imported by ")[2]))
        there = importers(package)
        if "Imported by " not in text or said != there:
            names = ", ".join(f"`{name}`" for name in sorted(there)) or "no other folder"
            wrong.append(f"{package}: Imported by {names}.")
    assert_none(wrong, "folders whose docstring does not end with the sentence that is true of them")


def test_every_public_type_has_a_name_of_its_own() -> None:
    defined: dict[str, list[str]] = defaultdict(list)
    for module, file in modules().items():
        for node in tree(file).body:
            if isinstance(node, ast.ClassDef):
                defined[node.name].append(module)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                defined[node.targets[0].id].append(module)
    twice = (
        f"{name}: {', '.join(places)}"
        for name, places in defined.items()
        if len(places) > 1 and re.match(r"[A-Z][a-zA-Z]*[a-z]", name) and not name.isupper()
    )
    assert_none(twice, "public types whose name another type has as well")


def room(module: str) -> str:
    """Return the folder of state or pipeline that a module lies in; for the modules directly in it, its own name."""
    top, inner = (module + "..").split(".")[:2]
    return f"{top}/{inner}" if top in {"state", "pipeline"} and f"{top}.{inner}" in packages() else top


def rooms_imported() -> dict[str, set[str]]:
    """Name what each room imports: `engine` or `(pipeline)` within its top folder, `state` for another one."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, names in imported().items():
        here, top = room(module), module.partition(".")[0]
        for there in {room(name) for name in names} - {here}:
            other, _, inner = there.partition("/")
            found[here].add(other if other != top else inner or f"({top})")
    return {here: names for here, names in found.items() if names}


def test_the_picture_in_architecture_shows_the_imports_as_they_are() -> None:
    [block] = re.findall(r"(?ms)^```imports\n(.*?)^```$", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    # A long list goes on in an indented line.
    lines = re.findall(r"(?m)^([\w/]+) +→ (.*)$", re.sub(r",\n +", ", ", block))
    drawn = {here: set(names.split(", ")) for here, names in lines}
    true = "\n".join(f"{here} → {', '.join(sorted(names))}" for here, names in rooms_imported().items())
    assert drawn == rooms_imported(), f"the imports are:\n{true}"


def is_tested_here(test: Path) -> bool:
    """Tell whether a test lies in the folder of the module or of the folder that its name begins with."""
    folder = ROOT / test.parent.relative_to(ROOT / "tests")
    names = {folder.name, *(file.stem for file in folder.glob("*.py"))}
    tested = test.stem.removeprefix("test_")
    return any(tested == name or tested.startswith(f"{name}_") for name in names)


def test_every_test_lies_where_the_module_does_that_it_tests() -> None:
    tests = [test for package in PACKAGES for test in (ROOT / "tests" / package).rglob("test_*.py")]
    assert tests
    astray = (str(test.relative_to(ROOT)) for test in tests if not is_tested_here(test))
    assert_none(astray, "tests whose name begins with no module of the same folder of the source")
