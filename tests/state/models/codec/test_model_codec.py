"""What may stand in a saved model, and what may not: bytes that try to run something make objects or are refused."""

import collections
import copy
import datetime as dt
import decimal
import fractions
import functools
import math
import pickle
import random
import re
import statistics
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from river import compose, linear_model, neighbors, preprocessing, stats, utils
from river._river_rust import drift
from river._river_rust import stats as rust_stats

from headrace.state.models.codec import graph, graph_reader, graph_writer, rust, values
from headrace.state.models.codec.graph import CodecError, Column, Containers, Frozen, Instances, Named, Values
from headrace.state.models.codec.model_codec import ModelCodec
from headrace.state.models.codec.trust import Trust

HOLDER = "types:SimpleNamespace"


class Own:
    """A class of the user's."""

    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


class Slotted:
    __slots__ = ("a", "b")


class Listed(list[Any]):
    """A list with an attribute."""


class Pair(collections.namedtuple("Pair", "a b")):  # noqa: PYI024 what users write
    """A named tuple."""

    __slots__ = ()


class Decides:
    def __reduce__(self) -> Any:
        return (print, ("it ran",))


class Loud:
    """Says when something of it is called."""

    called: list[str] = []  # noqa: RUF012 on purpose

    def __setattr__(self, name: str, value: Any) -> None:
        self.called.append("setattr")
        object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        self.called.append("hash")
        return 1

    def __eq__(self, other: object) -> bool:
        self.called.append("eq")
        return True


class Gone:
    """Does something when it is gone."""

    def __del__(self) -> None:
        Loud.called.append("del")


def named(x: Any) -> Any:
    return x


def trip(value: Any, *, modules: tuple[str, ...] = (__name__,)) -> Any:
    """Save a value and load it, as a part of a model that the factory built with it."""
    trust = Trust(modules)
    trust.learns = True
    raw = graph_writer.write(value, trust)
    trust.learns = False
    assert graph_writer.write(value, trust) == raw
    return graph_reader.read(raw or b"", trust)


def same(one: Any, two: Any) -> bool:
    if isinstance(one, float):
        return np.float64(one).tobytes() == np.float64(two).tobytes()
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes("A"), one.flags.f_contiguous) == (
            two.dtype,
            two.shape,
            two.tobytes("A"),
            two.flags.f_contiguous,
        )
    return bool(type(one) is type(two) and one == two)


VALUES: list[Any] = [
    *(0, -1, 2**63 - 1, -(2**63), 2**63, -(2**70), 10**400, True, False, None, 0.1, -0.0, math.inf, math.nan),
    *("", "a", "\ud800 half", "\U0001f600", b"", b"\x00\xff", bytearray(b"ab"), 1 + 2j, complex(0, -0.0)),
    *(range(3, 30, 4), decimal.Decimal("1.10"), fractions.Fraction(-3, 7), statistics.NormalDist(1.0, 2.0)),
    *(dt.date(2024, 2, 29), dt.timedelta(-1, 3, 5), dt.timezone(dt.timedelta(hours=2)), dt.UTC, dt.time(1, 2, fold=1)),
    *(dt.datetime(2024, 2, 29, 1, 2, 3, 4), dt.datetime(2024, 1, 1, tzinfo=dt.UTC)),  # noqa: DTZ001 on purpose
    *((1, (2, ("a", ()))), [1, "a", None, 2.0], {"a": 1, 2: "b", (1, "c"): None}, {1, 2}, frozenset({"a", "b"})),
    collections.Counter("hello"),
    collections.OrderedDict([("b", 1), ("a", 2)]),
    collections.deque([1, 2], maxlen=3),
    collections.defaultdict(float, {"a": 1.0}),
    collections.defaultdict(functools.partial(collections.defaultdict, int)),
    np.arange(6.0).reshape(2, 3),
    np.arange(6.0).reshape(2, 3).T,
    np.zeros((0, 3)),
    np.array(2.5),
    np.array([1, 2], dtype=">i4"),
    np.array([True, False]),
    np.array(["a", "bcd"]),
    np.array([1 + 2j]),
    np.array([np.nan, -0.0, np.inf]),
    *(np.float64(0.1), np.float32(0.1), np.int64(-3), np.bool_(1), np.str_("ab")),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_come_back_to_the_bit(value: Any) -> None:
    (back,) = trip([value])
    assert same(value, back)
    (held,) = trip([Own(a=value, b=[value])])
    assert same(value, held.a)
    assert same(value, held.b[0])


def test_objects_come_back_with_what_they_hold() -> None:
    slotted, listed = Slotted(), Listed([1, 2])
    slotted.a = 3
    listed.note = "x"  # type: ignore[attr-defined]
    back = trip([slotted, listed, Pair(1, [2]), stats.Mean, named, math.log1p, np.log1p, str.lower, re.compile("a+")])
    assert (back[0].a, hasattr(back[0], "b")) == (3, False)
    assert (back[1], back[1].note, type(back[1])) == ([1, 2], "x", Listed)
    assert (back[2], type(back[2])) == (Pair(1, [2]), Pair)
    assert back[3:] == [stats.Mean, named, math.log1p, np.log1p, str.lower, re.compile("a+")]


def test_shared_objects_stay_shared_and_circles_closed() -> None:
    inner: list[Any] = [1]
    one = Own(a=inner, b=(inner, inner))
    one.me = one  # type: ignore[attr-defined]
    inner.append(one)
    back = trip([one, inner])
    assert back[0].me is back[0] is back[1][1]
    assert back[0].a is back[1] is back[0].b[0] is back[0].b[1]


def test_a_model_of_any_depth_is_saved_and_loaded() -> None:
    deep: Any = None
    for _ in range(20_000):
        deep = Own(inner=[deep])
    back = trip([deep])
    for _ in range(20_000):
        (back,) = (back[0] if isinstance(back, list) else back).inner
    assert back is None


@pytest.mark.parametrize("make", [lambda: random.Random(3), lambda: np.random.RandomState(3)])
def test_old_sources_of_random_numbers_go_on_where_they_were(make: Callable[[], Any]) -> None:
    source = make()
    for _ in range(700):
        source.gauss(0, 1) if isinstance(source, random.Random) else source.normal()
    (back,) = trip([source])
    draw = (lambda one: one.gauss(0, 1)) if isinstance(source, random.Random) else (lambda one: one.normal())
    assert [draw(back) for _ in range(999)] == [draw(source) for _ in range(999)]


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "PCG64DXSM", "SFC64", "Philox"])
def test_numpys_generators_go_on_where_they_were_and_part_as_they_would(kind: str) -> None:
    source = np.random.Generator(getattr(np.random, kind)(np.random.SeedSequence(5, spawn_key=(1,))))
    source.integers(0, 5, size=3, dtype=np.int32)
    (back,) = trip([source])
    assert back.normal(size=99).tolist() == source.normal(size=99).tolist()
    assert back.spawn(1)[0].random() == source.spawn(1)[0].random()


def test_a_sets_order_is_kept() -> None:
    for seed in range(50):
        # A number's hash is the same in every process; that of a text is so in workers alone, which have one hash seed.
        members = random.Random(seed).sample(range(1_000), 8)
        held = set()
        for member in members:
            held.add(member)
        (back,) = trip([held])
        assert list(back) == list(held)


def test_an_object_that_can_not_be_saved_is_refused_by_name() -> None:
    for value, reason in (
        (Own(a=lambda: 1), "lambda"),
        (Own(a=iter({1})), "set_iterator"),
        (Own(a=open(__file__)), "TextIOWrapper"),  # noqa: SIM115, PTH123 closed below
        (Decides(), "Decides defines itself"),
        (Own(a=np.array([object()])), "array of object"),
        (sys, "module"),
        (Own(__class__=1), "__class__"),
    ):
        with pytest.raises(CodecError, match=reason):
            trip([value])
        held = vars(value).get("a") if isinstance(value, Own) else None
        if hasattr(held, "close"):
            held.close()


class Reduced:
    """Decides itself how it is saved, and has what is no data."""

    def __init__(self) -> None:
        self.function = lambda: 1

    def __reduce__(self) -> Any:
        return (Reduced, ())


def test_an_object_that_reduces_itself_is_pickled_only_where_that_is_allowed() -> None:
    model = linear_model.LogisticRegression()
    model.note = Reduced()
    with pytest.raises(
        CodecError, match=r"Reduced defines itself how it is saved, in .*LogisticRegression\.note"
    ) as told:
        ModelCodec(model)
    assert "model.allow_pickle = true and redis.sign_key" in told.value.hint
    codec = ModelCodec(model, pickles=True)
    raw = codec.dump(("", model)) or b""
    assert codec.load(raw)[1].note.function() == 1
    for pickled in (raw, value(graph.PICKLE, pickle.dumps(1))):
        with pytest.raises(CodecError, match="an unknown kind, 'pickle'"):
            load(pickled)


# Bytes that no model of the factory's gives. Each is a graph by hand.


def column(*held: Any) -> Column:
    """Make a column of numbers, strings (by number, in braces) and objects (by number, in brackets)."""
    plain = [one for one in held if not isinstance(one, list | set)]
    texts = [number for one in held if isinstance(one, set) for number in one]
    objects = [number for one in held if isinstance(one, list) for number in one]
    kinds = bytes(2 if isinstance(one, list) else 1 if isinstance(one, set) else 0 for one in held)
    return Column(kinds, plain, texts, objects)


def crafted(
    *, leaves: Any = (), mutables: Any = (), frozen: Any = (), attributes: Any = (), strings: Any = (), root: int = 0
) -> bytes:
    made = graph.Graph(1, list(strings), list(leaves), list(mutables), list(frozen), list(attributes), root)
    return graph.encode(made)


def load(raw: bytes, model: Any = None) -> Any:
    return ModelCodec(linear_model.LogisticRegression() if model is None else model).load(raw)


NAMES = [
    *("os:system", "posix:system", "subprocess:Popen", "builtins:eval", "builtins:exec", "builtins:open"),
    *("builtins:__import__", "builtins:getattr", "builtins:type", "builtins:dict.get", "builtins:compile"),
    *("river.datasets.base:os.system", "river.datasets.base:shutil.copy", "random:_os.system", "marshal:loads"),
    *("numpy:load", "numpy:memmap", "numpy.testing._private.utils:runstring", "ctypes:CDLL", "pickle:loads"),
    *("river.stream.cache:Cache", "river.datasets.synth.agrawal:Agrawal", "river.checks.common:check_pickling"),
    *("river.base.base:_log_method_calls", "river.utils.rolling:BaseRolling.__getattr__", "types:CodeType"),
    *("river.linear_model.log_reg:LogisticRegression.learn_one", "river.utils.math:dot", "river.base:Base.__init__"),
    *("river.evaluate:progressive_val_score", "collections:namedtuple", "random:_test", "functools:partial"),
    *(
        "antigravity:fly",
        "headrace.state.store.store:connect",
        "headrace.state.models.codec.graph_reader:read",
        "",
        ":",
        "river",
        "river:",
        "river.stats:",
    ),
    *("operator:attrgetter('__globals__')", "re:0:'(a+)+$'", "river.base.base:Base.__class__", "copy:deepcopy"),
    *("river._river_rust.stats:RsQuantile", "river.compat.river_to_sklearn:SKLRegressorWrapper", "numpy:frombuffer"),
]


@pytest.mark.parametrize("name", NAMES)
def test_an_untrusted_class_can_not_be_named(name: str) -> None:
    before = set(sys.modules)
    for raw in (
        crafted(leaves=[Named([name])]),
        crafted(mutables=[Instances(name, 1, [], [])]),
        crafted(mutables=[Containers(name, [0], column(), None, None)]),
        crafted(frozen=[Frozen("tuple", name, [0], column(), [])]),
        crafted(
            mutables=[Instances("river.stats.mean:Mean", 1, [], [])],
            frozen=[Frozen("method", "", [1], column([0]), [name])],
        ),
    ):
        with pytest.raises(CodecError, match=r"they name|is not a class of objects"):
            load(raw)
    assert set(sys.modules) == before


def test_the_chain_that_ran_code_can_not_be_written_down() -> None:
    """Pickle's BUILD sets attributes on a class: here attributes are those of instances that were just made."""
    code = {"__text_signature__": "(x=__import__('os'))", "__wrapped__": 1, "__signature__": 2, "__bases__": 3}
    for name in (*code, "__class__", "__dict__", "__init__", "__reduce__", "__del__", "__getattr__"):
        table = Instances("river.utils.rolling:BaseRolling", 1, [name], [column(1.0)])
        with pytest.raises(CodecError, match="has an attribute"):
            load(crafted(mutables=[table]))
    # A class is none of the objects that attributes are given to.
    with pytest.raises(CodecError):
        load(
            crafted(
                leaves=[Named(["river.utils.rolling:BaseRolling"])],
                attributes=[graph.Attributes("builtins:type", [0], ["obj"], [column(1)])],
            )
        )
    assert not hasattr(utils.rolling.BaseRolling, "obj")
    for raw in (pickle.dumps(Decides()), b"\x80\x05.", b"", b"\x00", b"cos\nsystem\n(S'true'\ntR."):
        with pytest.raises(CodecError):
            load(raw)


@pytest.mark.parametrize("hidden", ["learn_one", "predict_one", "_raw_dot_one", "clone", "_mutable_attributes"])
def test_an_attribute_can_not_hide_a_method(hidden: str) -> None:
    raw = crafted(mutables=[Instances("river.linear_model.log_reg:LogisticRegression", 1, [hidden], [column(1.0)])])
    with pytest.raises(CodecError, match="hides a part of its class"):
        load(raw)


def test_a_function_may_stand_where_the_models_own_stood_and_nowhere_else() -> None:
    model = compose.FuncTransformer(named) | linear_model.LogisticRegression()
    name = f"{__name__}:named"
    good = crafted(
        leaves=[Named([name])],
        mutables=[Instances("river.compose.func:FuncTransformer", 1, ["func"], [column([0])])],
        root=1,
    )
    trust = Trust()
    trust.learns = True
    graph_writer.write(model, trust)
    trust.learns = False
    assert graph_reader.read(good, trust).func is named
    for bad in (
        Instances("river.stats.mean:Mean", 1, ["_mean"], [column([0])]),
        Instances("river.compose.func:FuncTransformer", 1, ["other"], [column([0])]),
        Containers("builtins:list", [1], column([0]), None, None),
        Containers("collections:defaultdict", [0], column(), column(), column([0])),
    ):
        with pytest.raises(CodecError, match="is not allowed in"):
            graph_reader.read(crafted(leaves=[Named([name])], mutables=[bad], root=1), trust)


def test_no_method_of_an_object_is_called() -> None:
    trust = Trust([__name__])
    with pytest.raises(CodecError, match="__del__"):
        graph_reader.read(crafted(mutables=[Instances(f"{__name__}:Gone", 1, [], [])]), trust)
    name = f"{__name__}:Loud"
    table = Instances(name, 2, ["a"], [column(1, 2)])
    found = graph_reader.read(crafted(mutables=[table]), trust)
    assert found.a == 1
    for keyed in (
        Containers("builtins:set", [2], column([0], [1]), None, None),
        Containers("builtins:dict", [2], column([0], [1]), column(1, 2), None),
    ):
        with pytest.raises(CodecError, match="is a key"):
            graph_reader.read(crafted(mutables=[table, keyed], root=2), trust)
    with pytest.raises(CodecError, match="is a key"):
        graph_reader.read(
            crafted(
                mutables=[table, Containers("builtins:set", [1], column([3]), None, None)],
                frozen=[Frozen("tuple", "builtins:tuple", [1], column([0]), [])],
            ),
            trust,
        )
    assert Loud.called == []


def value(kind: str, shape: Any) -> bytes:
    return crafted(leaves=[Values(kind, [shape if isinstance(shape, bytes) else msgspec.msgpack.encode(shape)])])


def _twister(place: int) -> bytes:
    return values._TWISTER.pack(*range(624), place)


def _bits(kind: str, **changed: int) -> list[Any]:
    numbers = [values._packed(n) for n in values._numbers(getattr(np.random, kind)(1).state)]
    for index, number in changed.items():
        numbers[int(index.removeprefix("at"))] = values._packed(number)
    return [numbers, None]


WILD = {
    "a place beyond MT19937's state": value("MT19937", _bits("MT19937", at624=625)),
    "a place before MT19937's state": value("MT19937", _bits("MT19937", at624=-1)),
    "a short MT19937": value("MT19937", [_bits("MT19937")[0][1:], None]),
    "a wide number in MT19937": value("MT19937", _bits("MT19937", at0=2**32)),
    "a place beyond Philox's buffer": value("Philox", _bits("Philox", at10=5)),
    "a pool without bounds": value(
        "PCG64", [_bits("PCG64")[0], [[b"\x01"], [b"\x01"], [], [b"\x00" * 9 + b"\x01", b"\x00"]]]
    ),
    "a place beyond Random's state": value("Random", _twister(625)),
    "Random's state, cut": value("Random", _twister(1)[:-1]),
    "a large array of nothing": value("array", ["<f8", [10**12], False, b""]),
    "an array that is too large by overflow": value("array", ["<f8", [2**39, 2**39], False, b""]),
    "an array of objects": value("array", ["|O", [1], False, b"\x00" * 8]),
    "an array of records": value("array", ["<f8, <f8", [1], False, b"\x00" * 16]),
    "an array of times": value("array", ["<M8[s]", [1], False, b"\x00" * 8]),
    "an array of nothing, without end": value("array", ["<U0", [10**12], False, b""]),
    "a shape below zero": value("array", ["<f8", [-1], False, b"\x00" * 8]),
    "too many dimensions": value("array", ["<f8", [1] * 99, False, b"\x00" * 8]),
    "a bytearray by its size": value("bytearray", 10**12)[:-1],
    "more objects than bytes": crafted(mutables=[Instances("river.stats.mean:Mean", 10**9, [], [])]),
    "a long list of nothing": crafted(mutables=[Containers("builtins:list", [10**9], column(), None, None)]),
    "an iterator that has no end": crafted(frozen=[Frozen("iterator", "", [1], column([0]), [])]),
    "an object that is not there": crafted(mutables=[Containers("builtins:list", [1], column([7]), None, None)]),
    "a root that is not there": crafted(root=9),
    "a string that is not there": crafted(mutables=[Containers("builtins:list", [1], column({7}), None, None)]),
    "a tuple in itself": crafted(frozen=[Frozen("tuple", "builtins:tuple", [1], column([0]), [])]),
    "a list as a key": crafted(
        mutables=[
            Containers("builtins:list", [0], column(), None, None),
            Containers("builtins:set", [1], column([0]), None, None),
        ]
    ),
    "an ADWIN that is cut": value("AdaptiveWindowing", drift.AdaptiveWindowing().__getstate__()[:-1]),
    "a quantile beyond its markers": value("RsQuantile", rust_stats.RsQuantile(0.5).__getstate__()[:-2] + b"\x09\x00"),
    "a decimal of many digits": value("Decimal", "1" * 100_000),
    "a fraction of nothing": value("Fraction", [b"\x01", b"\x00"]),
    "a date that is none": value("datetime", [[2024, 13, 1, 0, 0, 0, 0], 0, None]),
    "a value that is not known": value("code", b""),
}


@pytest.mark.parametrize("wild", WILD)
def test_wild_values_are_refused(wild: str) -> None:
    with pytest.raises(CodecError) as told:
        load(WILD[wild])
    assert "another kind of model" not in str(told.value), "it was made"


def test_the_nesting_of_tuples_is_bounded() -> None:
    nested = [Frozen("tuple", "builtins:tuple", [1], column(1), [])]
    nested += [Frozen("tuple", "builtins:tuple", [1], column([place]), []) for place in range(99)]
    with pytest.raises(CodecError, match="too deep"):
        load(crafted(frozen=nested))
    deep: Any = ()
    for _ in range(99):
        deep = (deep,)
    with pytest.raises(CodecError, match="deep"):
        trip([deep])


def test_many_keys_of_one_hash_are_refused() -> None:
    """A table of them takes the square of their number to be filled."""
    states = [values._packed(number * sys.hash_info.modulus) for number in range(8, 2_000)]
    keys = column(*([place] for place in range(len(states))))
    raw = crafted(
        leaves=[Values("int", states)],
        mutables=[Containers("builtins:set", [len(states)], keys, None, None)],
        root=len(states),
    )
    with pytest.raises(CodecError, match="the same hash"):
        load(raw)


def _native(name: str) -> Any:
    kind = rust._KINDS[name]
    arguments = {"RsRollingIQR": (0.25, 0.75, 7), "RsIQR": (0.25, 0.75), "RsRollingQuantile": (0.5, 7)}
    many: tuple[Any, ...] = arguments.get(name, (1, 7) if "AUC" in name else ())
    if name in {"RsEWMean", "RsEWVar"}:
        many = (0.5,)
    if name in {"RsSkew", "RsKurtosis"}:
        many = (False,)
    made = kind(*many)
    source = random.Random(1)
    for index in range(400):
        number = source.gauss(index // 200, 1)
        made.update(index % 2, number) if "AUC" in name else made.update(number)
    return made


@pytest.mark.parametrize("name", rust._KINDS)
def test_rivers_parts_in_rust_come_back_and_their_damage_is_refused_or_harmless(name: str) -> None:
    """A wild state would panic in native code, with what is no Exception: as soon as it is loaded, or at an update."""
    state = rust.dump(_native(name))
    assert rust.dump(rust.load(name, state)) == state
    source = random.Random(7)
    for _ in range(3_000):
        bad = bytearray(state)
        for _ in range(source.choice((1, 1, 2, 8))):
            bad[source.randrange(len(bad))] = source.choice((0, 1, 127, 255, source.randrange(256)))
        raw = bytes(bad[: source.choice((len(bad), len(bad), source.randrange(len(bad))))])
        try:
            made = values.load(name, raw)
        except CodecError:
            continue
        for index in range(12):
            made.update(index % 2, float(index)) if "AUC" in name else made.update(float(index))
        made.get_width() if name == "AdaptiveWindowing" else made.get()


def test_models_that_could_not_be_loaded_are() -> None:
    x = {"a": 1.0, "ab": 2.0}
    for model in (
        linear_model.PAClassifier(mode=0),
        compose.TargetTransformRegressor(linear_model.LinearRegression(), func=math.log1p, inverse_func=math.expm1),
        neighbors.KNNClassifier(
            engine=neighbors.LazySearch(5, dist_func=functools.partial(utils.math.minkowski_distance, p=3))
        ),
        preprocessing.StandardScaler(window_size=3) | linear_model.LogisticRegression(),
    ):
        codec = ModelCodec(copy.deepcopy(model))
        for _ in range(9):
            model.predict_one(x)
            model.learn_one(x, y=True)
        _, back = codec.load(codec.dump(("", model)) or b"")
        assert back.predict_one(x) == model.predict_one(x)


def test_a_pattern_that_selects_features_is_the_factorys_own() -> None:
    model = compose.Select(re.compile("a.*")) | linear_model.LogisticRegression()
    codec = ModelCodec(model)
    _, back = codec.load(codec.dump(("", model)) or b"")
    assert back["Select"].keys == {re.compile("a.*")}
    other = ModelCodec(compose.Select(re.compile("(a+)+b")) | linear_model.LogisticRegression())
    with pytest.raises(CodecError, match="not trusted"):
        other.load(codec.dump(("", model)) or b"")
