"""Checksums of the user's code that a model depends on: each function, class and constant.

The log and the code together determine a model. `spec` compares the parameters of River's parts, but not the body of a
function in `model.py`: if that changed, relearning would make another model without an error. So each definition that
is reachable by name has a checksum. It covers the syntax tree, since bytecode differs between Python versions, without
comments, docstrings, annotations and layout. Names are resolved through the imports of the user's own modules, those
that no package manager installed. A value that is computed when its module is loaded, such as a table read from a file,
is covered by its value, if that is a number or a collection.
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
"""The checksum of code without a source file: compiled files, or an interactive session."""
COMPUTED = "="
"""Added to the name of a value that is computed when its module is loaded."""

_CHECKSUM_DIGITS = 12
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_LIBRARIES = frozenset({"river", "numpy"})
# Fields of syntax nodes that do not change what the code does.
_MEANINGLESS = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_VALUES_MAX = 1_000_000


class DefinedName(NamedTuple):
    """A name at the top level of a module; an empty name is the module itself."""

    module: str
    name: str


def name_of(found: Any) -> DefinedName | None:
    """Return the top-level name of a user's function or class; None for one of a library."""
    module = getattr(found, "__module__", None)
    if not isinstance(module, str) or not is_own(module):
        return None
    return DefinedName(module, found.__qualname__.partition(".")[0])


@functools.lru_cache(maxsize=64)
def checksums(roots: frozenset[DefinedName]) -> dict[str, str]:
    """Return the checksums of the roots and of all definitions that they reach, by `module.name`."""
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
        text = "".join(map(_dump, statements)) + value
        found[name] = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_CHECKSUM_DIGITS]
        for statement in statements:
            left.extend(module.reach(statement))
    names = {name: f"{name.module}.{name.name}{COMPUTED if name in computed else ''}" for name in sorted(found)}
    return {text: found[name] for name, text in names.items()}


@functools.lru_cache(maxsize=256)
def is_own(module: str) -> bool:
    """Tell whether a module is the user's: neither built in nor installed by a package manager."""
    root = module.partition(".")[0]
    # Finding a submodule imports its package, so check the package first: it may be a library.
    if root in _LIBRARIES or (root != module and not is_own(root)):
        return False
    path = _path(module)
    if path is None or _INSTALLED.intersection(path.parts):
        return False
    return not any(path.is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib"))


class _Module:
    """The top level of a module: the statements that bind each name, and its imports."""

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
        """Return the module and the name from which this module imports a name; None for its own names."""
        if name in self.bindings:
            return None
        if name in self._imports:
            return self._imports[name]
        return next((DefinedName(star, name) for star in self._stars if _has(star, name)), None)

    def _imported(self, statement: ast.stmt) -> Iterator[tuple[str, DefinedName]]:
        """Yield each name that a statement imports, and its definition."""
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


def _follow(start: DefinedName, rest: list[str]) -> Iterator[DefinedName]:
    """Yield the definition to which a path of attributes leads, through modules and their imports."""
    module, name = start
    for _ in range(len(rest) + 50):
        if not is_own(module):
            return
        if not name:
            if not rest:
                # The module itself is used, so any of its names may be.
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
    """Read a module's source; None when it has none, or Python can't read it."""
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
    """Tell whether a statement runs only in the main program: `if __name__ == "__main__"`."""
    return isinstance(statement, ast.If) and any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
    )


def _bound(statement: ast.stmt) -> set[str]:
    """Return the names that a top-level statement binds or whose values it changes."""
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
    """Return the names that a statement uses, each with the attributes that follow it."""
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
    """Removes parts without effect from a syntax tree: docstrings, `pass`, annotations outside the body of a class."""

    _in_class = False

    def visit(self, node: ast.AST) -> Any:
        """Return the node without the parts that have no effect; None when nothing is left."""
        match node:
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                return None
            case ast.AnnAssign() if not self._in_class:
                return node.value and self.visit(ast.Assign(targets=[node.target], value=node.value))
            case ast.arg():
                node.annotation = None
            case ast.JoinedStr():
                # Only Python 3.12 adds empty strings after the fields of an f-string.
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
    """Return a syntax tree as text that is the same in every release of Python."""
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    return f"{type(node).__name__}({','.join(f'{name}={_dump(value)}' for name, value in _fields(node))})"


def _fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a node that have a meaning."""
    for name, value in ast.iter_fields(node):
        if name not in _MEANINGLESS and value is not None and value != []:
            yield name, value


def _value(name: DefinedName, statements: list[ast.stmt]) -> str:
    """Return the value that a top-level call computes, as text; "" for any other statement.

    A plain string does not count, since it may be a path or a host name.
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
