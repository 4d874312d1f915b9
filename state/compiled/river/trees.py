"""River's Hoeffding trees as the parts of a program: their options, and a tree as a structure and numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from river import proba, stats, tree
from river.tree.nodes.branch import NominalBinaryBranch, NominalMultiwayBranch, NumericBinaryBranch
from river.tree.nodes.htc_nodes import LeafMajorityClass, LeafNaiveBayes, LeafNaiveBayesAdaptive
from river.tree.splitter import GaussianSplitter
from river.tree.splitter.nominal_splitter_classif import NominalSplitterClassif

from headrace.state.compiled.ops.tree.memory import (
    ADAPTIVE,
    BAYES,
    BINARY,
    DISABLED,
    GAUSSIAN,
    GINI,
    HELLINGER,
    INFO_GAIN,
    LEAF,
    MAJORITY,
    MULTIWAY,
    NOMINAL,
    NUMERIC,
    OPTIONS,
)
from headrace.state.compiled.program import COMPENSATES, TREE, FeatureName, Grown, Memo, ProgramPart
from headrace.state.compiled.river.transformers import NotCompiled, Where, name_of, number
from headrace.state.compiled.tree_arrays import TreeArrays

_CRITERIA = {"info_gain": INFO_GAIN, "gini": GINI, "hellinger": HELLINGER}
_LEAVES: dict[type, int] = {LeafMajorityClass: MAJORITY, LeafNaiveBayes: BAYES, LeafNaiveBayesAdaptive: ADAPTIVE}
_PREDICTIONS = {"mc": MAJORITY, "nb": BAYES, "nba": ADAPTIVE}
_MEMORY = {"max_size": 100.0, "memory_estimate_period": 1_000_000, "stop_mem_management": False}
_DEPTH_MAX = 1 << 20


def classifier(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile HoeffdingTreeClassifier."""
    options = _options(step)
    nominal = tuple(map(name_of, step.nominal_attributes or ()))
    return [
        ProgramPart(
            code=TREE,
            path=where,
            sources=(source,),
            learns=True,
            # River may raise after the transformers before it have learned.
            late=True,
            name=lambda feature, _: (feature, 1.0),
            take=_take,
            give=_give,
            family=lambda: TreeArrays(options, count=1, nominal=frozenset(nominal)),
            grows=_is_grown,
        )
    ]


def _options(step: Any) -> Any:
    """Return the options of a tree as an array of one record. Raises NotCompiled."""
    if type(step.splitter) is not GaussianSplitter:
        raise NotCompiled(f"the splitter {type(step.splitter).__name__} is not compiled; GaussianSplitter is")
    for name, usual in _MEMORY.items():
        if getattr(step, name) != usual:
            raise NotCompiled(f"{name}={getattr(step, name)!r}: River measures its own objects; it is compiled without")
    splits, delta = step.splitter.n_splits, number(step.delta, "delta")
    if type(splits) is not int or splits < 0:
        raise NotCompiled(f"n_splits={splits!r} is no number of splits")
    if not 0.0 < delta <= 1.0:
        raise NotCompiled(f"delta={delta} is no probability")
    options = np.zeros(1, OPTIONS)
    values = {
        "max_depth": min(int(number(step.max_depth, "max_depth")), _DEPTH_MAX),
        "criterion": _CRITERIA[step.split_criterion],
        "leaf": _PREDICTIONS[step.leaf_prediction],
        "binary_split": bool(step.binary_split),
        "preprune": bool(step.merit_preprune),
        "poor": bool(step.remove_poor_attrs),
        "splits": splits,
        "compensated": COMPENSATES,
        "grace": number(step.grace_period, "grace_period"),
        "delta": delta,
        "tau": number(step.tau, "tau"),
        "bayes_from": number(step.nb_threshold, "nb_threshold"),
        "fraction_min": number(step.min_branch_fraction, "min_branch_fraction"),
        "share_max": number(step.max_share_to_split, "max_share_to_split"),
        "period": number(step.memory_estimate_period, "memory_estimate_period"),
        "two": 2.0,
        "half": 0.5,
    }
    for name, value in values.items():
        options[name] = value
    return options


def _is_grown(grown: Grown, numbers: Any, classes: int) -> bool:
    """Tell whether a structure of any origin is that of a tree that has learned these numbers."""
    from headrace.state.compiled.ops.tree.checks import are_trees  # noqa: PLC0415 it imports numba

    structure = np.frombuffer(grown.structure, "<i4").astype(np.int64)
    lengths = len(structure), len(grown.names), len(grown.values), grown.numbers, grown.nodes, grown.cells
    # Each node has two entries, each cell at least one of the entries: a head that says more is refused before memory
    # is taken for it.
    if grown.nodes > len(structure) or grown.cells > sum(lengths[:3]) or len(numbers) != grown.numbers:
        return False
    ends, cursor = np.array(lengths, np.int64), np.zeros(6, np.int64)
    return bool(are_trees(structure, np.array(numbers), ends, cursor, np.zeros(grown.nodes + 2, np.int64), 1, classes))


class _Writer:
    """Writes River's objects as a structure and numbers, as `ops/tree/storage.py` does."""

    def __init__(self, places: Mapping[Any, int]) -> None:
        self._places = places
        self.structure: list[int] = []
        self.names: list[FeatureName] = []
        self.values: list[tuple[FeatureName, Any]] = []
        self.numbers: list[float] = []
        self.nodes = self.cells = 0

    def tree(self, model: Any) -> None:
        root = model._root  # noqa: SLF001 River has no public names for these
        self.structure += [root is not None, model._n_active_leaves, model._n_inactive_leaves, model._growth_allowed]  # noqa: SLF001
        self.numbers += [model._train_weight_seen_by_model, model._active_leaf_size_estimate]  # noqa: SLF001
        self.numbers += [model._inactive_leaf_size_estimate, model._size_estimate_overhead_fraction]  # noqa: SLF001
        stack = [] if root is None else [root]
        while stack:
            node = stack.pop()
            self._node(node)
            stack += reversed(getattr(node, "children", ()))

    def _node(self, node: Any) -> None:
        self.nodes += 1
        kinds = {NumericBinaryBranch: NUMERIC, NominalBinaryBranch: BINARY, NominalMultiwayBranch: MULTIWAY}
        kind = kinds.get(type(node), LEAF)
        if kind == LEAF and type(node) not in _LEAVES:
            raise NotCompiled(f"a node of it is a {type(node).__name__}")
        self.structure.append(kind)
        self._weights(node.stats)
        if kind == LEAF:
            self._leaf(node)
            return
        feature = name_of(node.feature)
        self.structure.append(len(node.children))
        self.cells += len(node.children)
        self.names.append(feature)
        if kind == NUMERIC:
            self.numbers.append(node.threshold)
        elif kind == BINARY:
            self.values.append((feature, node.value))
        else:
            ordered = sorted(node._mapping.items(), key=lambda item: item[1])  # noqa: SLF001
            self.values += [(feature, value) for value, _ in ordered]

    def _weights(self, weights: Mapping[Any, float]) -> None:
        self.structure += [len(weights), *(self._places[label] for label in weights)]
        self.numbers += weights.values()
        self.cells += len(weights)

    def _leaf(self, leaf: Any) -> None:
        active = leaf.splitters is not None
        splitters = leaf.splitters or {}
        self.numbers.append(leaf.last_split_attempt_at)
        self.numbers += [getattr(leaf, "_mc_correct_weight", 0.0), getattr(leaf, "_nb_correct_weight", 0.0)]
        disabled = leaf._disabled_attrs  # noqa: SLF001
        self.structure += [active, len(splitters) + len(disabled)]
        for feature, splitter in splitters.items():
            self.names.append(name_of(feature))
            self.cells += 1
            (self._nominal if type(splitter) is NominalSplitterClassif else self._gaussian)(feature, splitter)
        for feature in sorted(disabled, key=str):
            self.structure.append(DISABLED)
            self.names.append(name_of(feature))
            self.cells += 1

    def _gaussian(self, feature: Any, splitter: Any) -> None:
        if type(splitter) is not GaussianSplitter:
            raise NotCompiled(f"the splitter of {feature} is a {type(splitter).__name__}")
        found = splitter._att_dist_per_class  # noqa: SLF001
        self.structure += [GAUSSIAN, len(found)]
        self.cells += len(found)
        for label, gaussian in found.items():
            variance = gaussian._var  # noqa: SLF001
            self.structure.append(self._places[label])
            self.numbers += [variance.mean.n, variance.mean._mean, variance._S]  # noqa: SLF001
            self.numbers += [splitter._min_per_class[label], splitter._max_per_class[label]]  # noqa: SLF001

    def _nominal(self, feature: Any, splitter: Any) -> None:
        found, values = splitter._att_dist_per_class, splitter._att_values  # noqa: SLF001
        self.structure += [NOMINAL, len(found)]
        self.cells += len(found)
        self.numbers += [splitter._total_weight_observed, splitter._missing_weight_observed]  # noqa: SLF001
        # A set does not keep the order in which its values came; those of the classes do.
        ordered = dict.fromkeys(value for counts in found.values() for value in counts)
        self._counts(feature, {**ordered, **dict.fromkeys(values - ordered.keys())}, 0.0)
        for label, counts in found.items():
            self.structure.append(self._places[label])
            self._counts(feature, counts, None)

    def _counts(self, feature: Any, counts: Mapping[Any, Any], weight: float | None) -> None:
        self.structure.append(len(counts))
        self.cells += len(counts)
        self.values += [(feature, value) for value in counts]
        self.numbers += [count if weight is None else weight for count in counts.values()]


def _take(model: Any) -> Memo:
    classes = _classes_of(model)
    writer = _Writer({label: place for place, label in enumerate(classes)})
    writer.tree(model)
    numbers = tuple(map(float, writer.numbers))
    structure = np.array(writer.structure, "<i4").tobytes()
    names, values = tuple(writer.names), tuple(writer.values)
    return Memo(
        {},
        classes=classes,
        grown=Grown(structure, names, values, len(numbers), writer.nodes, writer.cells),
        numbers=numbers,
    )


def _classes_of(model: Any) -> tuple[Any, ...]:
    """Return the classes in the order in which the tree met them, as far as it tells: first those of the root."""
    found: dict[Any, None] = {}
    stack = [] if model._root is None else [model._root]  # noqa: SLF001
    while stack:
        node = stack.pop()
        found.update(dict.fromkeys(node.stats))
        stack += reversed(getattr(node, "children", ()))
    rest = sorted(set(model.classes) - found.keys())
    return *found, *rest


class _Reader:
    """Makes River's objects of a structure and numbers."""

    def __init__(self, memo: Memo, model: Any) -> None:
        assert memo.grown is not None
        self._classes, self._model = memo.classes, model
        self._structure = iter(np.frombuffer(memo.grown.structure, "<i4").tolist())
        self._names, self._values = iter(memo.grown.names), (value for _, value in memo.grown.values)
        self._numbers = iter(memo.numbers)

    def tree(self) -> None:
        model, take = self._model, self._structure.__next__
        has_root = take()
        model._n_active_leaves, model._n_inactive_leaves = take(), take()  # noqa: SLF001 as in the writer
        model._growth_allowed = bool(take())  # noqa: SLF001
        model._train_weight_seen_by_model = next(self._numbers)  # noqa: SLF001
        model._active_leaf_size_estimate = next(self._numbers)  # noqa: SLF001
        model._inactive_leaf_size_estimate = next(self._numbers)  # noqa: SLF001
        model._size_estimate_overhead_fraction = next(self._numbers)  # noqa: SLF001
        if not has_root:
            return
        # The branches above, each with the children that it has so far, and how many it will have.
        above: list[tuple[Any, list[Any], int]] = []
        model._root, count = self._node(0)  # noqa: SLF001
        node = model._root  # noqa: SLF001
        while True:
            if count:
                above.append((node, node.children, count))
            else:
                while above and len(above[-1][1]) == above[-1][2]:
                    above.pop()
                if not above:
                    return
            node, count = self._node(len(above))
            above[-1][1].append(node)

    def _node(self, depth: int) -> tuple[Any, int]:
        """Return a node without its children, and their number."""
        kind = next(self._structure)
        weights = self._weights()
        if kind == LEAF:
            return self._leaf(weights, depth), 0
        children, feature = next(self._structure), next(self._names)
        if kind == NUMERIC:
            node: Any = NumericBinaryBranch(weights, feature, next(self._numbers), depth, None, None)
        elif kind == BINARY:
            node = NominalBinaryBranch(weights, feature, next(self._values), depth, None, None)
        else:
            node = NominalMultiwayBranch(weights, feature, [next(self._values) for _ in range(children)], depth)
        node.children = []
        return node, children

    def _weights(self) -> dict[Any, float]:
        places = [next(self._structure) for _ in range(next(self._structure))]
        return {self._classes[place]: next(self._numbers) for place in places}

    def _leaf(self, weights: dict[Any, float], depth: int) -> Any:
        leaf = self._model._new_leaf(weights)  # noqa: SLF001
        leaf.depth = depth
        active = next(self._structure)
        leaf.last_split_attempt_at = next(self._numbers)
        right = next(self._numbers), next(self._numbers)
        if isinstance(leaf, LeafNaiveBayesAdaptive):
            leaf._mc_correct_weight, leaf._nb_correct_weight = right  # noqa: SLF001
        for _ in range(next(self._structure)):
            kind, feature = next(self._structure), next(self._names)
            if kind == DISABLED:
                leaf._disabled_attrs.add(feature)  # noqa: SLF001
            elif kind in {GAUSSIAN, NOMINAL}:
                leaf.splitters[feature] = self._gaussian() if kind == GAUSSIAN else self._nominal()
        if not active:
            leaf.deactivate()
        return leaf

    def _gaussian(self) -> Any:
        splitter = self._model.splitter.clone()
        for _ in range(next(self._structure)):
            label = self._classes[next(self._structure)]
            gaussian, variance = proba.Gaussian(), stats.Var(ddof=1)
            variance.mean.n, variance.mean._mean, variance._S = (next(self._numbers) for _ in range(3))  # noqa: SLF001
            gaussian._var = variance  # noqa: SLF001
            splitter._att_dist_per_class[label] = gaussian  # noqa: SLF001
            splitter._min_per_class[label] = next(self._numbers)  # noqa: SLF001
            splitter._max_per_class[label] = next(self._numbers)  # noqa: SLF001
        return splitter

    def _nominal(self) -> Any:
        splitter, classes = NominalSplitterClassif(), next(self._structure)
        splitter._total_weight_observed = next(self._numbers)  # noqa: SLF001
        splitter._missing_weight_observed = next(self._numbers)  # noqa: SLF001
        for value in self._counts():
            splitter._att_values.add(value)  # noqa: SLF001
        for _ in range(classes):
            label = self._classes[next(self._structure)]
            splitter._att_dist_per_class[label] = self._counts()  # noqa: SLF001
        return splitter

    def _counts(self) -> dict[Any, float]:
        values = [next(self._values) for _ in range(next(self._structure))]
        return {value: next(self._numbers) for value in values}


def _give(model: Any, memo: Memo) -> None:
    model.classes = set(memo.classes)
    _Reader(memo, model).tree()


HEADS = {tree.HoeffdingTreeClassifier: classifier}
"""The trees that are compiled. A new one needs a line here."""
