import uuid

import pytest

from headrace.consumers.formats.framing import HEADER, Frame, prefix, schema_of, unframe
from headrace.consumers.refusal import Refusal

GUID = uuid.UUID("89791762-2336-4186-9674-299b90a802e2")


def test_the_id_before_the_value_is_found_and_taken_off() -> None:
    assert unframe(prefix(17) + b"rest", None, has_indexes=False) == Frame("17", b"rest")
    assert schema_of(prefix(17) + b"rest", None) == "17"


@pytest.mark.parametrize(("value", "schema"), [(b"\0\0\0\0\x11", "17"), (b"\x01" + GUID.bytes, str(GUID))])
def test_a_header_names_the_schema_and_leaves_the_value_whole(value: bytes, schema: str) -> None:
    headers = [("other", None), (HEADER, value)]
    assert unframe(b"whole", headers, has_indexes=False) == Frame(schema, b"whole")
    assert schema_of(b"whole", headers) == schema


@pytest.mark.parametrize(
    ("indexes", "found"),
    [(b"\0", (0,)), (b"\x02\x04", (2,)), (b"\x04\x02\x00", (1, 0)), (b"\x02\x80\x02", (128,))],
    ids=["first", "third", "nested", "two bytes"],
)
def test_the_indexes_of_a_protobuf_message_are_read_from_value_and_header(
    indexes: bytes, found: tuple[int, ...]
) -> None:
    assert unframe(prefix(3) + indexes + b"rest", None, has_indexes=True) == Frame("3", b"rest", found)
    headers = [(HEADER, b"\x01" + GUID.bytes + indexes)]
    assert unframe(b"rest", headers, has_indexes=True) == Frame(str(GUID), b"rest", found)


@pytest.mark.parametrize("value", [b"{}", b"\0", b"\0\0\0\0", b"\x01\0\0\0\x01x"])
def test_a_value_without_a_frame_is_refused_by_its_code(value: bytes) -> None:
    found = unframe(value, None, has_indexes=False)
    assert isinstance(found, Refusal)
    assert found.code == "not_framed"
    assert schema_of(value, None) is None


@pytest.mark.parametrize("header", [None, b"", b"\x02" + GUID.bytes, b"\x01short"])
def test_a_header_that_names_no_schema_is_refused(header: bytes | None) -> None:
    found = unframe(prefix(1) + b"x", [(HEADER, header)], has_indexes=False)
    assert isinstance(found, Refusal)
    assert found.code == "not_framed"
    assert HEADER in found.message


@pytest.mark.parametrize("indexes", [b"", b"\x02", b"\x80\x80\x80\x80\x80\x80", b"\x01", b"\xfe\x01" + b"\x02" * 10])
def test_indexes_that_are_cut_off_or_negative_or_too_many_are_refused(indexes: bytes) -> None:
    found = unframe(prefix(1) + indexes, None, has_indexes=True)
    assert isinstance(found, Refusal)
    assert found.code == "not_framed"


def test_the_prefix_is_the_one_that_is_read() -> None:
    assert unframe(prefix(9, has_indexes=True) + b"m", None, has_indexes=True) == Frame("9", b"m", (0,))
