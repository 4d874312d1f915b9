"""The user's own code that a model rests on: each function, class and constant, as a checksum of its syntax.

A model is a fold of a log by code. What River's parts are built with is data (`spec`); what a function in `model.py`
does is not, and a changed body would let a relearning make another model in silence. So each definition that is
reachable by name has a checksum: of its syntax tree, since bytecode differs between Python versions, and comments,
docstrings, annotations and layout mean nothing. Names are resolved as the modules' own imports say, within the user's
modules: those that no package manager installed. What is computed once, such as a table that is read from a file,
counts by its value where that is numbers, or a collection.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

UNREAD = "unread"
"""The checksum of what has no source: compiled files alone, an interactive session."""
COMPUTED = "="
"""What stands behind the name of a value that is computed when its module is loaded."""

_CHECKSUM_DIGITS = 12
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_LIBRARIES = frozenset({"river", "numpy"})
# What a node holds that changes nothing in what the code does.
_MEANINGLESS = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_VALUES_MAX = 1_000_000


class DefinedName(NamedTuple):
    """A name at the top level of a module; an empty one is the module itself."""

    module: str
    name: str


def name_of(found: Any) -> DefinedName | None:
    """Return the top-level name of a function or a class of the user's; None for one of a library."""
    module = getattr(found, "__module__", None)
    if not isinstance(module, str) or not is_own(module):
        return None
    return DefinedName(module, found.__qualname__.partition(".")[0])


@functools.lru_cache(maxsize=64)
def checksums(roots: frozenset[DefinedName]) -> dict[str, str]:
    """Return a checksum for each definition that the roots reach, themselves among them, by `module.name`."""
    found: dict[DefinedName, str] = {}
    computed: set[DefinedName] = set()
    left = list(roots)
    while left:
        name = left.pop()
        if name in found:
            continue
        module = _module(name.module)
        if module is None or name.name not in module.bindings:
            found[name] = UNREAD
            continue
        statements = module.bindings[name.name]
        value = _value(name, statements)
        if value:
            computed.add(name)
        said = "".join(map(_dump, statements)) + value
        found[name] = hashlib.sha256(said.encode(errors="surrogatepass")).hexdigest()[:_CHECKSUM_DIGITS]
        for statement in statements:
            left.extend(module.reach(statement))
    names = {name: f"{name.module}.{name.name}{COMPUTED if name in computed else ''}" for name in sorted(found)}
    return {text: found[name] for name, text in names.items()}


@functools.lru_cache(maxsize=256)
def is_own(module: str) -> bool:
    """Tell whether a module is the user's: not built in, and installed by no package manager."""
    root = module.partition(".")[0]
    # To ask for a module of a package imports the package: not one that is a library.
    if root in _LIBRARIES or (root != module and not is_own(root)):
        return False
    path = _path(module)
    if path is None or _INSTALLED.intersection(path.parts):
        return False
    return not any(path.is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib"))


class _Module:
    """The top level of a module: the statements that bind each name, and what it has from other modules."""

    def __init__(self, name: str, source: str, *, package: str) -> None:
        self._name = name
        self._package = package
        self._imports: dict[str, DefinedName] = {}
        self._stars: list[str] = []
        self.bindings: dict[str, list[ast.stmt]] = {}
        for statement in _Plain().visit(ast.parse(source)).body:
            if _is_script(statement):
                continue
            if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self._imports.update(self._imported(statement))
            for bound in sorted(_bound(statement)):
                self.bindings.setdefault(bound, []).append(statement)

    def reach(self, statement: ast.stmt) -> Iterator[DefinedName]:
        """Yield the user's definitions whose names a statement of this module uses."""
        imports = {**self._imports, **dict(self._imported(statement))}
        for root, *rest in sorted(_paths(statement)):
            if root in imports:
                yield from _follow(imports[root], rest)
            elif root in self.bindings:
                yield DefinedName(self._name, root)
            else:
                for star in self._stars:
                    if _has(star, root):
                        yield from _follow(DefinedName(star, root), rest)

    def origin(self, name: str) -> DefinedName | None:
        """Return what a name is in the module that this one has it from; None where it is this one's own."""
        if name in self.bindings:
            return None
        if name in self._imports:
            return self._imports[name]
        return next((DefinedName(star, name) for star in self._stars if _has(star, name)), None)

    def _imported(self, statement: ast.stmt) -> Iterator[tuple[str, DefinedName]]:
        """Yield each name that is imported in a statement, and what it means."""
        for node in ast.walk(statement):
            if isinstance(node, ast.ImportFrom):
                module = self._absolute(node)
                for alias in node.names:
                    if alias.name == "*":
                        self._stars.append(module)
                    else:
                        yield alias.asname or alias.name, DefinedName(module, alias.name)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    whole = alias.name if alias.asname else alias.name.partition(".")[0]
                    yield alias.asname or whole, DefinedName(whole, "")

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        with contextlib.suppress(ImportError):
            return importlib.util.resolve_name("." * node.level + (node.module or ""), self._package)
        return ""


def _follow(meant: DefinedName, rest: list[str]) -> Iterator[DefinedName]:
    """Yield the definition to which a path of attributes leads: through modules, and what they have from others."""
    module, name = meant
    for _ in range(len(rest) + 50):
        if not is_own(module):
            return
        if not name:
            if not rest:
                # A module as a whole: what is asked of it can't be told.
                found = _module(module)
                yield from (DefinedName(module, bound) for bound in (found.bindings if found else ()))
                return
            name, *rest = rest
        found = _module(module)
        if found is not None and name in found.bindings:
            break
        further = None if found is None else found.origin(name)
        if further is not None:
            module, name = further
        elif _path(f"{module}.{name}") is not None:
            module, name = f"{module}.{name}", ""
        else:
            break
    yield DefinedName(module, name)


def _has(module: str, name: str) -> bool:
    found = _module(module) if is_own(module) else None
    return found is not None and (name in found.bindings or found.origin(name) is not None)


@functools.lru_cache(maxsize=256)
def _module(name: str) -> _Module | None:
    """Read a module's source; None where there is none, or none that Python reads."""
    spec = _find(name)
    if spec is None or spec.origin is None:
        return None
    try:
        source: str | None
        if spec.origin.endswith(".py") and Path(spec.origin).is_file():
            source = importlib.util.decode_source(Path(spec.origin).read_bytes())
        else:
            source = getattr(spec.loader, "get_source", lambda _name: None)(name)
        package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
        return None if source is None else _Module(name, source, package=package)
    except (OSError, SyntaxError, ValueError, ImportError, RecursionError):
        return None


def _path(module: str) -> Path | None:
    spec = _find(module)
    if spec is None:
        return None
    if spec.origin is not None:
        return Path(spec.origin) if spec.has_location else None
    # A folder without an __init__.py.
    return next(map(Path, spec.submodule_search_locations or ()), None)


def _find(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return None


def _is_script(statement: ast.stmt) -> bool:
    """Tell what runs only where the file is the program: `if __name__ == "__main__"`."""
    return isinstance(statement, ast.If) and any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
    )


def _bound(statement: ast.stmt) -> set[str]:
    """Return the names that a statement at the top level binds, or whose values it changes."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    bound = set()
    nodes: list[ast.AST] = [statement]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
            continue
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            bound.add(_root(node))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            # `TABLE.update(…)`
            bound.add(_root(node.value.func))
        if not isinstance(node, ast.comprehension | ast.Lambda):
            nodes.extend(ast.iter_child_nodes(node))
    return bound - {""}


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _paths(statement: ast.stmt) -> set[tuple[str, ...]]:
    """Return the names that a statement uses, each with the attributes that are asked of it."""
    paths: set[tuple[str, ...]] = set()
    nodes: list[Any] = [statement]
    while nodes:
        node = nodes.pop()
        path: list[str] = []
        while isinstance(node, ast.Attribute):
            path.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            paths.add((node.id, *path))
        elif isinstance(node, list):
            nodes.extend(node)
        elif isinstance(node, ast.AST):
            nodes.extend(value for _, value in _fields(node))
    return paths


class _Plain(ast.NodeTransformer):
    """Leaves out of a syntax tree what changes nothing: docstrings, `pass`, annotations outside the body of a class."""

    _in_class = False

    def visit(self, node: ast.AST) -> Any:
        """Return the node without what changes nothing, or None for one of which nothing is left."""
        match node:
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                return None
            case ast.AnnAssign() if not self._in_class:
                return node.value and self.visit(ast.Assign(targets=[node.target], value=node.value))
            case ast.arg():
                node.annotation = None
            case ast.JoinedStr():
                # Python 3.12 puts empty texts behind a format's fields, other releases do not.
                node.values = [part for part in node.values if not _is_empty_text(part)]
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                node.returns = None
        before = self._in_class
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._in_class = isinstance(node, ast.ClassDef)
        plain = self.generic_visit(node)
        self._in_class = before
        return plain


def _is_empty_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value == ""


def _dump(node: Any) -> str:
    """Write a syntax tree down, the same in every release of Python."""
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    return f"{type(node).__name__}({','.join(f'{name}={_dump(value)}' for name, value in _fields(node))})"


def _fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a node that mean something."""
    for name, value in ast.iter_fields(node):
        if name not in _MEANINGLESS and value is not None and value != []:
            yield name, value


def _value(name: DefinedName, statements: list[ast.stmt]) -> str:
    """Return the value of what is computed at the top level, as text; nothing for all else.

    Texts by themselves don't count, since paths and names of hosts are such.
    """
    if not any(isinstance(node, ast.Call) for one in statements for node in ast.walk(one)) or any(
        isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for one in statements
    ):
        return ""
    value = getattr(sys.modules.get(name.module), name.name, None)
    return "" if isinstance(value, str | bytes) or not _is_plain(value) else _canonical(value)


def _is_plain(value: Any) -> bool:
    left, seen = [value], 0
    while left:
        item = left.pop()
        seen += 1
        if seen > _VALUES_MAX:
            return False
        if type(item) is dict:
            left.extend(item.keys())
            left.extend(item.values())
        elif type(item) in {list, tuple, set, frozenset}:
            left.extend(item)
        elif item is not None and type(item) not in {bool, int, float, str, bytes}:
            return False
    return True


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{','.join(f'{_canonical(key)}:{_canonical(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_canonical, value))}]"
    if isinstance(value, set | frozenset):
        return f"{{{','.join(sorted(map(_canonical, value)))}}}"
    return repr(value)
