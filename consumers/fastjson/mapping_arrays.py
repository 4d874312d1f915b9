"""A mapping as arrays, with which compiled code finds the fields of a record.

The objects above the features are the nodes of a tree, and so are the fields of the id, the time and the label. Below
the features, a name that is no plain feature has a mark in the interner of names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from headrace.consumers.fastjson.interner import same_bytes
from headrace.consumers.fastjson.jit import PADDING, inlined
from headrace.consumers.fastjson.tokens import string_end
from headrace.consumers.mapping import RecordMapping
from headrace.consumers.schema import Feature

OTHER, INNER, FEATURES, ID, TS, LABEL = range(6)
"""What a node is: nothing that is needed, an object on a path, the features, or one of the other fields."""
ROOT: Any = np.int64(1)
"""The node of a whole record. Node 0 stands for all that is on no path."""
NODES_MAX = 60

MARKED = 1 << 62
"""A mark is a stamp in the interner of names that no record has: this number, and one of the following.

`ASKED`: Python has not yet said what the name is. `EXCLUDED`: no feature, nor is anything within it. `ON_PATH`, and a
node's number: another field, or an object that holds one. `NOT_INCLUDED`, and the stamp of the last record that had it:
no feature, but some may be within it.
"""
ASKED, EXCLUDED, ON_PATH, NOT_INCLUDED = 0, 1, 2, 1 << 61
NUMERIC, NULLABLE = 1, 2
"""What a declared feature may be, as bits: text that is a number, and null."""

_BEGIN, _SIZE, ROLE, _FIRST, _LAST = range(5)
OPTIONS = [(name, np.int64) for name in ("is_default", "flatten", "skip_nulls", "skip_empty", "asks", "features_node")]
"""The fields that say how values are read; with `asks`, each new name is for Python."""


class MappingArrays(NamedTuple):
    """The fields of a record, for compiled code.

    A row of `nodes` (int64) has the start of the node's name in `arena` (uint8) and its size, both with the closing
    quote, what the node is, and the range of its children.
    """

    nodes: Any
    arena: Any


@inlined
def child(text: Any, at: int, parent: int, expected: int, mapping: MappingArrays) -> tuple[int, int]:
    """Return the child of a node whose name is at `at`, or 0, and the position after the name, which may be SLOW.

    The `expected` child is looked at first; it may be 0.
    """
    nodes = mapping.nodes
    if expected > 0 and same_bytes(text, at, mapping.arena, nodes[expected, _BEGIN], nodes[expected, _SIZE]):
        return expected, at + nodes[expected, _SIZE]
    for node in range(nodes[parent, _FIRST], nodes[parent, _LAST]):
        if same_bytes(text, at, mapping.arena, nodes[node, _BEGIN], nodes[node, _SIZE]):
            return node, at + nodes[node, _SIZE]
    return 0, string_end(text, at)


@dataclass(slots=True)
class _Node:
    """A node, with its children by name and its number."""

    name: str = ""
    role: int = INNER
    children: "dict[str, _Node]" = field(default_factory=dict)
    number: int = 0


class MappingTree:
    """The tree of a mapping, and the marks of names below the features.

    It `is_known` unless the lexer can't follow the mapping, as where two fields have one path, or a label comes from a
    header: then all records are for the decoder.
    """

    def __init__(self, mapping: RecordMapping) -> None:
        self.mapping = mapping
        self._root = _Node()
        self._below: dict[str, _Node] = {}
        self.is_known = mapping.label_path.source in {"value", "nowhere"} and self._place_all()
        self._order = [_Node(role=OTHER), self._root, *self._below.values()]
        for node in self._order:
            self._order.extend(node.children.values())
        for number, node in enumerate(self._order):
            node.number = number
        self.is_known = self.is_known and len(self._order) <= NODES_MAX

    def marks(self) -> dict[str, int]:
        """Return the marks of names that are on a path; the other names have the marks of `mark`."""
        return {name: MARKED + ON_PATH + node.number for name, node in self._below.items()}

    def mark(self, name: str) -> int:
        """Return the mark of a name below the features, or 0 for a feature."""
        mapping = self.mapping
        if mapping.takes(name):
            return 0
        return MARKED + (NOT_INCLUDED if mapping.flatten and not mapping.leaves_out(name) else EXCLUDED)

    def arrays(self) -> MappingArrays:
        """Return the tree as arrays."""
        rows, arena = [], bytearray()
        for node in self._order:
            # Children of one node follow one another.
            first = next(iter(node.children.values())).number if node.children else 0
            name = node.name.encode(errors="surrogatepass") + b'"'
            rows.append((len(arena), len(name), node.role, first, first + len(node.children)))
            arena += name
        return MappingArrays(np.array(rows, np.int64), np.frombuffer(arena + bytes(PADDING), np.uint8))

    def options(self) -> dict[str, int]:
        """Return how values are read, for the fields of `OPTIONS`."""
        mapping = self.mapping
        return {
            "is_default": mapping.is_default,
            "flatten": mapping.flatten,
            "skip_nulls": mapping.nulls == "skip",
            "skip_empty": mapping.empty == "skip",
            "asks": bool(mapping.include or mapping.exclude),
            "features_node": next(node.number for node in self._order if node.role == FEATURES),
        }

    def declared(self, features: Mapping[str, Feature]) -> Any:
        """Return the bits of the declared features, in the order of their numbers: int64."""
        parses = self.mapping.numbers == "parse"
        bits = [
            (NUMERIC if parses and feature.type in {"number", "integer"} else 0) | (NULLABLE if feature.nullable else 0)
            for feature in features.values()
        ]
        return np.array(bits, np.int64)

    def _place_all(self) -> bool:
        """Place the fields in the tree; return False where two of them are in each other's way."""
        mapping = self.mapping
        top = mapping.features_path
        is_placed = _place(self._root, top, FEATURES)
        for path, role in ((mapping.id_path, ID), (mapping.ts_path, TS), (mapping.label_path, LABEL)):
            if path.source != "value":
                continue
            if path.names[: len(top)] == top and len(path.names) > len(top):
                is_placed = self._place_below(path.names[len(top) :], role) and is_placed
            else:
                is_placed = _place(self._root, path.names, role) and is_placed
        return is_placed

    def _place_below(self, names: Sequence[str], role: int) -> bool:
        """Place a field below the features."""
        mapping = self.mapping
        for depth in range(1, len(names)):
            outer = ".".join(names[:depth])
            if mapping.leaves_out(outer):
                return _place(self._below.setdefault(outer, _Node()), names[depth:], role)
            if not mapping.flatten:
                # The object that contains the field is no feature, so the decoder refuses the record.
                return True
        name = ".".join(names)
        if name in self._below:
            return False
        self._below[name] = _Node(role=role)
        return True


def _place(root: _Node, names: Sequence[str], role: int) -> bool:
    """Place a field in a tree; return False if another one is on its path."""
    node = root
    for name in names:
        if node.role != INNER:
            return False
        node = node.children.setdefault(name, _Node(name=name))
    if node.role != INNER or node.children:
        return False
    node.role = role
    return True
