"""River's half-space trees as a part of a program: where their nodes split, and their masses."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from river import anomaly, compose
from river.tree import padded

from headrace.state.compiled.program import (
    BOOLEAN,
    CENTER,
    COUNTER,
    DISCARD,
    EXACT_MAX,
    FLOAT,
    FULL,
    HALF_SPACE,
    HASH,
    INTEGER,
    MASSES,
    MAXABS,
    MERGE,
    MINMAX,
    NAMES,
    NULL,
    ONEHOT,
    RENAME,
    SELECT,
    STANDARD,
    STRING,
    TYPES,
    FeatureName,
    Forest,
    Memo,
    ProgramPart,
)
from headrace.state.compiled.river.transformers import NotCompiled, Where, name_of, number

_HEIGHT_MAX = 18
_NODES_MAX = 1 << _HEIGHT_MAX
_PADDING = 0.15
# River's types do not tell what these take.
_Leaf: Any = padded.PaddedLeaf
_Branch: Any = padded.PaddedBranch
# The parts that write numbers only, and those that write what they read.
_NUMBERS = {STANDARD, CENTER, MINMAX, MAXABS, ONEHOT}
_CARRIED = {SELECT, DISCARD, RENAME, MERGE}
_ANY_NUMBER = 1 << INTEGER | 1 << FLOAT | 1 << BOOLEAN
FILTERS = (anomaly.ThresholdFilter,)
"""The filters that are compiled."""
Limits = Mapping[FeatureName, tuple[Any, Any]]


def half_space(step: Any, where: Where, source: int) -> list[ProgramPart]:
    """Compile HalfSpaceTrees."""
    trees, height = _whole(step.n_trees, "n_trees"), _whole(step.height, "height")
    window = _whole(step.window_size, "window_size")
    nodes = trees * ((2 << min(height, _HEIGHT_MAX)) - 1)
    if nodes > _NODES_MAX:
        raise NotCompiled(f"n_trees={trees} of height={height} have more than {_NODES_MAX} nodes")
    if window * (2 << height) * trees > EXACT_MAX:
        raise NotCompiled(f"window_size={window} is too large for sums of masses that a double holds")
    if type(step.seed) is not int:
        raise NotCompiled("without a seed its trees are others at every start; give it a seed")
    limits = {name_of(name): _limit(name, limit) for name, limit in step.limits.items()}
    draw = _Splits(trees=trees, height=height, seed=step.seed, limits=limits)
    return [
        ProgramPart(
            code=HALF_SPACE,
            path=where,
            sources=(source,),
            columns=1,
            limits=("flag",),
            scalars=(0.0,) * (MASSES + 2 * nodes),
            options={
                "trees": trees,
                "height": height,
                "window": window,
                "size_limit": 0.1 * window,
                "score_max": float(trees * window * ((2 << height) - 1)),
            },
            learns=True,
            late=True,
            forest=draw,
            holds=_holds(trees, height, window),
            take=_taker(draw),
            give=_giver(draw),
        )
    ]


def filtered(step: Any, where: Where) -> dict[str, float]:
    """Return the options of a filter of half-space trees. Raises NotCompiled."""
    threshold = number(step.threshold, "threshold")
    if threshold <= 0.0 or not step.protect_anomaly_detector:
        raise NotCompiled("it never teaches its detector")
    inner = step.anomaly_detector
    if type(inner) in FILTERS:
        raise NotCompiled("a filter of a filter is not compiled")
    if where and type(inner) is compose.Pipeline:
        raise NotCompiled("a filter of a pipeline, as a step of a pipeline, is not compiled")
    # If it holds the whole model, no step learns from an anomaly.
    return {"filters": True, "threshold": threshold, "gates": not where}


def behind(part: ProgramPart, parts: Sequence[ProgramPart], moving: set[int]) -> ProgramPart:
    """Return the part of half-space trees as it stands behind other parts; rows of `moving` change by learning.

    Raises NotCompiled if the names that it gets are not known before the record is learned, or are of two kinds.
    """
    plain = [False]
    for one in parts:
        if one.code in _NUMBERS:
            plain.append(True)
        elif one.code == TYPES:
            chosen = int(one.options["kinds"])
            # A statistic that an imputer fills in may become a float.
            if moving.intersection(one.sources) and chosen & _ANY_NUMBER not in {0, _ANY_NUMBER}:
                raise NotCompiled("a SelectType of some numbers, behind a step that learns, is not compiled")
            plain.append(plain[one.sources[0]] or not chosen & (1 << STRING | 1 << NULL))
        else:
            plain.append(one.code in _CARRIED and all(plain[source] for source in one.sources))
    if len(_name_types(parts)[part.sources[0]]) > 1:
        raise NotCompiled("a FeatureHasher beside other steps needs a Prefixer: River can't sort numbers with names")
    # They raise on a value that is no number, and then all that has learned must be undone.
    late = any(one.learns for one in parts) and not plain[part.sources[0]]
    return replace(part, late=late)


def _name_types(parts: Sequence[ProgramPart]) -> list[set[type]]:
    """Return of which types the names of each row may be."""
    types: list[set[type]] = [{str}]
    for one in parts:
        if one.code in {HASH, RENAME}:
            types.append({int} if one.code == HASH else {str})
        else:
            types.append(set().union(*(types[source] for source in one.sources)))
    return types


class _Splits:
    """Draws the splits of all trees for some names, as River does when its model learns the first record."""

    def __init__(self, *, trees: int, height: int, seed: int, limits: Limits) -> None:
        self.trees, self.height, self.seed = trees, height, seed
        self._limits = limits

    def __call__(self, names: Sequence[FeatureName]) -> Forest:
        """Return the splits for these names, which are in order."""
        return self.drawn(names, self.generator())

    def generator(self) -> random.Random:
        """Return River's generator as it is before the first draw."""
        return random.Random(self.seed)  # noqa: S311 the numbers of a model are no secrets

    def drawn(self, names: Sequence[FeatureName], generator: random.Random) -> Forest:
        """Return the splits that a generator draws."""
        branches = (1 << self.height) - 1
        features, splits = np.zeros(self.trees * branches, np.int32), np.zeros(self.trees * branches)
        limits = [self._limits.get(name, (0.0, 1.0)) for name in names]

        def split(at: int, node: int) -> None:
            """Draw the split of a node, then those below it: the left ones first."""
            if node >= branches:
                return
            (name,) = generator.choices(range(len(limits)), weights=[high - low for low, high in limits])
            low, high = limits[name]
            edge = generator.uniform(low + _PADDING * (high - low), high - _PADDING * (high - low))
            features[at + node], splits[at + node] = name, edge
            for child, part in ((2 * node + 1, (low, edge)), (2 * node + 2, (edge, high))):
                limits[name] = part
                split(at, child)
            limits[name] = low, high

        for tree in range(self.trees):
            split(tree * branches, 0)
        return Forest(features, splits)


def _whole(value: Any, what: str) -> int:
    """Return an option as a whole number above zero. Raises NotCompiled."""
    if type(value) is not int or value < 1:
        raise NotCompiled(f"{what}={value!r} is no whole number above zero")
    return value


def _limit(name: Any, limit: Any) -> tuple[Any, Any]:
    """Return the limits of a feature. Raises NotCompiled if River could not draw a split between them."""
    try:
        low, high = limit
        span = number(high, f"limits[{name!r}]") - number(low, f"limits[{name!r}]")
    except (TypeError, ValueError) as error:
        raise NotCompiled(f"limits[{name!r}]={limit!r} are no two numbers") from error
    if not 0.0 < span < math.inf:
        raise NotCompiled(f"limits[{name!r}]={limit!r} leave no room for a split")
    return low, high


def _holds(trees: int, height: int, window: int) -> Callable[[Memo], bool]:
    nodes = (2 << height) - 1

    def holds(memo: Memo) -> bool:
        names, counter, full = memo.scalars[NAMES], memo.scalars[COUNTER], memo.scalars[FULL]
        if names != len(memo.rows) or full not in {0.0, 1.0} or not (0.0 <= counter < window and counter.is_integer()):
            return False
        masses = np.array(memo.scalars[MASSES:]).reshape(2, trees, nodes)
        # Each record of a window adds one to each node of its way.
        is_sum = (masses[:, :, : nodes // 2] == masses[:, :, 1::2] + masses[:, :, 2::2]).all()
        roots = (masses[:, :, 0] == np.array([[counter], [full * window]])).all()
        sound = bool(is_sum and roots and (masses >= 0.0).all() and (masses == np.floor(masses)).all())
        return sound and (names > 0.0 or (counter == 0.0 and full == 0.0))

    return holds


def _taker(draw: _Splits) -> Callable[[Any], Memo]:
    nodes = (2 << draw.height) - 1

    def take(model: Any) -> Memo:
        generator = draw.generator()
        if not model.trees:
            if model.rng.getstate() != generator.getstate():
                raise NotCompiled("its generator does not begin with its seed")
            return Memo({}, (0.0,) * (MASSES + 2 * draw.trees * nodes))
        order = _depth_first(draw.height)
        found = [list(tree.iter_dfs()) for tree in model.trees]
        masses = np.zeros((2, draw.trees, nodes))
        masses[0][:, order] = [[node.l_mass for node in tree] for tree in found]
        masses[1][:, order] = [[node.r_mass for node in tree] for tree in found]
        names = _names_of(model, found, order, draw)
        scalars = (float(len(names)), float(model.counter), float(not model._first_window))  # noqa: SLF001 no public name
        return Memo(dict.fromkeys(names, (1.0,)), (*scalars, *masses.ravel().tolist()))

    return take


def _names_of(model: Any, found: Sequence[Sequence[Any]], order: Sequence[int], draw: _Splits) -> list[FeatureName]:
    """Return the names for which a model has drawn its splits. Raises NotCompiled if they are not known."""
    used = {name_of(node.feature) for tree in found for node in tree if hasattr(node, "feature")}
    branches = (1 << draw.height) - 1
    own = [
        (node.feature, node.threshold)
        for tree in found
        for at, node in sorted(zip(order, tree, strict=True), key=lambda pair: pair[0])
        if at < branches
    ]
    for names in (sorted(map(name_of, model.limits)), sorted(used)):
        generator = draw.generator()
        forest = draw.drawn(names, generator)
        drawn = [(names[name], split) for name, split in zip(*map(np.ndarray.tolist, forest), strict=True)]
        if drawn == own and generator.getstate() == model.rng.getstate():
            return names
    raise NotCompiled("its trees are not those of its seed")


def _giver(draw: _Splits) -> Callable[[Any, Memo], None]:
    nodes = (2 << draw.height) - 1
    branches = nodes // 2

    def give(model: Any, memo: Memo) -> None:
        if not memo.rows:
            return
        names = sorted(memo.rows)
        model.rng = draw.generator()
        forest = draw.drawn(names, model.rng)
        # River's dict of limits gets a default for each name that it looks up.
        model.limits.update({name: model.limits[name] for name in names})
        masses = np.array(memo.scalars[MASSES:]).astype(int).reshape(2, draw.trees, nodes).tolist()

        def node(tree: int, at: int) -> Any:
            own = {"l_mass": masses[0][tree][at], "r_mass": masses[1][tree][at]}
            if at >= branches:
                return _Leaf(**own)
            feature = names[int(forest.features[tree * branches + at])]
            split = float(forest.splits[tree * branches + at])
            return _Branch(
                left=node(tree, 2 * at + 1), right=node(tree, 2 * at + 2), feature=feature, threshold=split, **own
            )

        model.trees = [node(tree, 0) for tree in range(draw.trees)]
        model._tree_nodes = [list(tree.iter_dfs()) for tree in model.trees]  # noqa: SLF001 no public name
        model.counter = int(memo.scalars[COUNTER])
        model._first_window = memo.scalars[FULL] == 0.0  # noqa: SLF001

    return give


def _depth_first(height: int) -> list[int]:
    """Return the number of each node of a tree in the order in which River lists them."""
    order: list[int] = []

    def visit(node: int) -> None:
        if node < (2 << height) - 1:
            order.append(node)
            visit(2 * node + 1)
            visit(2 * node + 2)

    visit(0)
    return order
