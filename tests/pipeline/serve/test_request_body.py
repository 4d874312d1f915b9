"""What the records of a body are, for topics of any shape."""

import json
from typing import Any

import pytest

from headrace.consumers.mapping import RecordMapping
from headrace.pipeline.serve.http.problem import Problem
from headrace.pipeline.serve.request_body import AskedRecord, AskedRecords, BodyReader

DEFAULT = RecordMapping()
NESTED = RecordMapping(features="payload.after", label="payload.after.fraud")
FLAT = RecordMapping(features="", label="fraud")


def read(mapping: RecordMapping, body: Any, *, lines: bool = False, has_key: bool = False) -> list[AskedRecord]:
    reader = BodyReader(mapping, is_transformed=False, has_key=has_key)
    found = reader.read(body if isinstance(body, bytes) else json.dumps(body).encode(), is_lines=lines)
    assert isinstance(found, AskedRecords)
    assert all(isinstance(record, AskedRecord) for record in found.records)
    return list(found.records)  # type: ignore[arg-type]  # it was just asserted


def value(record: AskedRecord) -> Any:
    return json.loads(record.value)


def test_a_row_of_features_is_put_where_the_topic_has_them() -> None:
    row = {"amount": 1.5, "key": "is a feature here"}
    assert [value(one) for one in read(DEFAULT, {"instances": [row]})] == [{"features": row}]
    assert [value(one) for one in read(NESTED, {"instances": [row]})] == [{"payload": {"after": row}}]
    whole = {"payload": {"after": row}}
    assert [value(one) for one in read(NESTED, {"instances": [whole, row]})] == [whole, whole]
    assert value(read(FLAT, {"instances": [{"amount": 1.5}]})[0]) == {"amount": 1.5}


def test_a_row_that_is_no_record_leaves_the_others_as_they_are() -> None:
    row, other = {"amount": 1.5}, {"amount": 2}
    wrapped = [{"payload": {"after": row}}, 7, None, {"payload": {"after": other}}]
    assert [value(one) for one in read(NESTED, {"instances": [row, 7, None, other]})] == wrapped
    keyed = {"key": "c-7", "payload": {"after": row}}
    found = read(NESTED, {"instances": [keyed, 7, other]})
    assert [value(one) for one in found] == [keyed, 7, {"payload": {"after": other}}]
    assert [one.key for one in found] == [b"c-7", None, None]


def test_a_name_is_known_however_it_is_written() -> None:
    escaped = b'{"instances": [{"\\u006bey": "c-7", "features": {"a": 1}}, {"\\u0066eatures": {"a": 2}}]}'
    found = read(DEFAULT, escaped)
    assert [value(one)["features"] for one in found] == [{"a": 1}, {"a": 2}]
    assert found[0].key == b"c-7"


def test_a_key_beside_the_record_is_its_key() -> None:
    assert read(DEFAULT, {"key": "c-7", "features": {}})[0].key == b"c-7"
    assert read(DEFAULT, {"key": 12345678901234567890, "features": {}})[0].key == b"12345678901234567890"
    assert read(DEFAULT, {"key": None, "features": {}})[0].key is None
    assert read(DEFAULT, {"key": "é", "features": {}})[0].key == "é".encode()
    assert read(DEFAULT, {"partition": 3, "features": {}})[0].partition == 3


def test_in_a_flat_record_the_key_is_no_feature_unless_it_is_declared() -> None:
    [record] = read(FLAT, {"key": "c-7", "amount": 1})
    assert (record.key, value(record)) == (b"c-7", {"amount": 1})
    [declared] = read(FLAT, {"key": "c-7", "amount": 1}, has_key=True)
    assert (declared.key, value(declared)) == (None, {"key": "c-7", "amount": 1})


def test_lines_are_recognised_by_their_type_or_their_look() -> None:
    pretty = json.dumps({"features": {"a": 1}}, indent=2).encode()
    assert len(read(DEFAULT, pretty)) == 1
    assert len(read(DEFAULT, b'{"features": {}}\n\n{"features": {}}\r\n')) == 2
    assert len(read(DEFAULT, b'{"features": {}}', lines=True)) == 1
    broken = b'{"features": \n}'
    assert [one.value for one in read(DEFAULT, broken)] == [broken]


@pytest.mark.parametrize("body", [b"[1, ", b'[{"a": 1}', b'{"instances": {}}', b'{"instances": 1}'])
def test_a_list_that_is_none_is_a_problem(body: bytes) -> None:
    found = BodyReader(DEFAULT, is_transformed=False, has_key=False).read(body, is_lines=False)
    assert isinstance(found, (Problem, AskedRecords))
    if isinstance(found, AskedRecords):
        pytest.fail("it was taken for records")
    assert found.status == 400


def test_anything_else_is_one_record_and_the_decoder_says_what_it_is() -> None:
    for body in (b"", b" ", b"1", b'"text"', b"\xff\xfe", b"{" * 2_000):
        assert [one.value for one in read(DEFAULT, body)] == [body]
