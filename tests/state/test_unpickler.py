"""Snapshots that try to run something: each is a pickle by hand, and each must be refused before anything runs."""

import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from state.unpickler import Unpickler

# Pickle's own language, as much of it as an attack needs.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def call(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def with_state(thing: bytes, **state: bytes) -> bytes:
    return thing + b"}" + b"".join(text(key) + value + b"s" for key, value in state.items()) + b"b"


def a_list(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def item(thing: bytes, key: bytes, value: bytes) -> bytes:
    return thing + key + value + b"s"


LIST = name("builtins", "list")
FUNCTION = name("river.utils.math", "minkowski_distance")
ROLLING = name("river.utils.rolling", "BaseRolling")
BOOL = name("builtins", "bool")


def logged_getattr(thing: bytes, attribute: str) -> bytes:
    return call(name("river.base.base", "_log_method_calls"), thing, text(attribute), BOOL, BOOL)


def rolling_getattr(thing: bytes, attribute: str) -> bytes:
    return call(name("river.utils.rolling", "BaseRolling.__getattr__"), call(ROLLING, thing), text(attribute))


def rolling_getitem(thing: bytes, key: str) -> bytes:
    return call(name("river.utils.rolling", "BaseRolling.__getitem__"), call(ROLLING, thing), text(key))


def attacks(marker: str) -> dict[str, bytes]:
    code = text(f"__import__('pathlib').Path({marker!r}).touch()")
    shell = text(f"touch {marker}")
    found_globals = logged_getattr(FUNCTION, "__globals__")
    found_builtins = call(logged_getattr(found_globals, "get"), text("__builtins__"))
    rolled = rolling_getitem(rolling_getitem(rolling_getattr(FUNCTION, "__globals__"), "__builtins__"), "eval")
    agrawal = call(name("river.datasets.synth.agrawal", "Agrawal"))
    plain_getattr = call(name("builtins", "getattr"), FUNCTION, text("__globals__"))
    return {
        "os.system": call(name("os", "system"), shell),
        "posix.system": call(name("posix", "system"), shell),
        "subprocess.Popen": call(name("subprocess", "Popen"), a_list(text("touch"), text(marker))),
        "eval": call(name("builtins", "eval"), code),
        "exec": call(name("builtins", "exec"), code),
        "open": call(name("builtins", "open"), text(marker), text("w")),
        "__import__": call(name("builtins", "__import__"), text("os")),
        "getattr of a function": call(plain_getattr, text("x")),
        "a dotted builtin": call(name("builtins", "dict.get"), b"}", text("x")),
        "os through a module of River": call(name("river.datasets.base", "os.system"), shell),
        "shutil through a module of River": call(name("river.datasets.base", "shutil.copy"), shell, text(marker)),
        "os through random": call(name("random", "_os.system"), shell),
        "exec through numpy through River": call(
            name("river.utils.math", "np.testing._private.utils.runstring"), code, b"}"
        ),
        "numpy.load through River": call(name("river.utils.math", "np.load"), text("/nowhere"), b"N", b"\x88"),
        "numpy.load": call(name("numpy", "load"), text("/nowhere"), b"N", b"\x88"),
        "runstring": call(name("numpy.testing._private.utils", "runstring"), code, b"}"),
        "a file mapped by numpy": item(
            call(name("numpy", "memmap"), text(marker), text("uint8"), text("w+"), b"K\x00", b"K\x04"),
            b"K\x00",
            b"K\x41",
        ),
        "a string that River evaluates": call(
            LIST, with_state(agrawal, feature_names=a_list(code, text("not an expression")))
        ),
        "a getattr of River's wrapper": call(rolled, code),
        "a getattr of River's own log": call(logged_getattr(found_builtins, "get"), text("eval")),
        "a method with underscores, bound": call(
            call(name("builtins", "getattr"), call(ROLLING, FUNCTION), text("__getattr__")), text("__globals__")
        ),
        "a pickle cache of River's": call(name("river.stream.cache", "Cache"), text(marker)),
        "a file through River": call(name("river.stream.utils", "open_filepath"), text(marker), b"N"),
        "a checker of River's": call(name("river.checks.common", "check_pickling"), b"N"),
        "a progress of River's": call(name("river.evaluate", "progressive_val_score"), b"N"),
        "a function that makes classes": call(name("collections", "namedtuple"), text("A"), text("a b")),
        "a function of random's": name("random", "_test"),
        "a method of a class": name("river.linear_model.log_reg", "LogisticRegression.learn_one"),
        "a module": name("river.datasets.base", "os"),
        "the marshal module": call(name("marshal", "loads"), b"C\x01N"),
        "a code object": name("types", "CodeType"),
        "what builds classes": name("builtins", "type"),
        "ctypes": call(name("ctypes", "CDLL"), text("libc.so.6")),
        "a module that was never imported": name("antigravity", "fly"),
        "a user's module that was never imported": name("untouched", "run"),
        "another pickle": call(name("pickle", "loads"), b"C\x01N"),
        "the unpickler itself": name("state.unpickler", "Unpickler"),
        "the store": name("state.store", "connect"),
    }


ATTACKS = list(attacks("unused"))


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module that leaves a mark when it is imported."""
    marker = tmp_path / "marker"
    (tmp_path / "untouched.py").write_text(f"open({str(marker)!r}, 'w').close()\n\ndef run():\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not marker.exists(), "something ran"


def load(state: bytes, *trusted: str) -> Any:
    return Unpickler(state, trusted=frozenset(trusted)).load()


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_and_nothing_runs(attack: str, beside: Path) -> None:
    state = b"\x80\x04" + attacks(str(beside / "marker"))[attack] + b"."
    with pytest.raises(pickle.UnpicklingError, match="not trusted"):
        load(state, "model", "untouched")


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Plain pickle falls for them, so what holds them off is the unpickler and not a slip of the pen."""
    from river.datasets.synth import agrawal  # noqa: F401, PLC0415 the attack imports it by name

    marker = tmp_path / "marker"
    for attack in ("os.system", "exec", "a getattr of River's wrapper", "exec through numpy through River"):
        pickle.loads(b"\x80\x04" + attacks(str(marker))[attack] + b".")
        assert marker.exists(), attack
        marker.unlink()
    found = pickle.loads(b"\x80\x04" + attacks(str(marker))["a getattr of River's own log"] + b".")
    assert found is eval
    with pytest.raises(SyntaxError):
        pickle.loads(b"\x80\x04" + attacks(str(marker))["a string that River evaluates"] + b".")
    assert marker.exists()


@pytest.mark.parametrize("kind", ["O", "V8", "M8", "m8", "f8, f8", "O8"])
def test_an_array_of_anything_but_numbers_is_refused(kind: str) -> None:
    """A crafted type makes numpy take eight bytes of the snapshot for a pointer to an object."""
    crafted = call(name("numpy", "dtype"), text(kind), b"\x89", b"\x88")
    with pytest.raises(pickle.UnpicklingError, match="not trusted"):
        load(b"\x80\x04" + crafted + b".")


def test_a_type_can_not_be_crafted_by_its_state() -> None:
    flags = call(name("numpy", "dtype"), text("f8"), b"\x89", b"\x88")
    fields = b"}" + text("a") + call(LIST) + b"s"
    state = b"(K\x03" + text("<") + b"NN" + fields + b"K\x08K\x08K\x00tb"
    array = call(name("numpy._core.numeric", "_frombuffer"), b"C\x08AAAAAAAA", flags + state, b"K\x01\x85", text("C"))
    assert load(b"\x80\x04" + array + b".").tolist() == [struct.unpack("<d", b"A" * 8)[0]]
    assert np.dtype("f8").names is None
    assert np.zeros(1).tolist() == [0.0], "numpy's own types are as they were"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(12.0).reshape(3, 4)[:, ::2],
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        np.zeros((0, 3)),
        np.array(2.5),
        np.array([1, 2], dtype=">i4"),
        np.array([True, False]),
        np.array(["a", "bcd"]),
        np.array([1 + 2j]),
        np.array([np.nan, -0.0, np.inf]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_of_numbers_come_back_to_the_bit(array: Any) -> None:
    for _ in range(2):
        back = load(pickle.dumps(array, protocol=5))
        assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
        back.flags.writeable = True
        array = back


@pytest.mark.parametrize("scalar", [np.float64(0.1), np.float32(0.1), np.int64(-3), np.bool_(1), np.str_("ab")])
def test_scalars_of_numpy_come_back(scalar: Any) -> None:
    back = load(pickle.dumps(scalar, protocol=5))
    assert type(back) is type(scalar)
    assert back == scalar


def test_generators_of_random_numbers_go_on_where_they_were() -> None:
    for generator in (np.random.RandomState(3), np.random.default_rng(3)):
        generator.normal(size=5)
        back = load(pickle.dumps(generator, protocol=5))
        assert back.normal(size=5).tolist() == generator.normal(size=5).tolist()


def test_a_bound_method_of_a_trusted_class_comes_back() -> None:
    from river import linear_model  # noqa: PLC0415 only here

    model = linear_model.PAClassifier()
    back = load(pickle.dumps(model, protocol=5))
    assert back.calc_tau.__self__ is back


def test_a_cut_pickle_is_an_error_and_no_crash() -> None:
    whole = pickle.dumps({"a": [1.0, "b"], "c": np.arange(3)}, protocol=5)
    for end in range(len(whole)):
        with pytest.raises((pickle.UnpicklingError, EOFError, ValueError, IndexError, AttributeError, TypeError)):
            load(whole[:end])
