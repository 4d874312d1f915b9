"""Tensors of the Open Inference Protocol, as JSON and as bytes."""

import struct
from typing import Any

import pytest

from headrace.pipeline.serve.protocols.tensors import (
    InputTensor,
    TensorInvalid,
    TensorParameters,
    datatype_of,
    read_columns,
    write_bytes,
)


def tensor(name: str, datatype: str, shape: list[int], data: Any = None, size: int | None = None) -> InputTensor:
    return InputTensor(name, shape, datatype, data, TensorParameters(binary_data_size=size))


def test_bytes_behind_the_json_are_read_in_the_order_of_the_tensors() -> None:
    amounts = struct.pack("<2d", 12.5, -1.0)
    words = struct.pack("<I", 2) + b"NO" + struct.pack("<I", 0)
    asked = [
        tensor("amount", "FP64", [2, 1], size=len(amounts)),
        tensor("count", "INT32", [2], [3, 4]),
        tensor("country", "BYTES", [2], size=len(words)),
        tensor("known", "BOOL", [2], size=2),
    ]
    columns = read_columns(asked, amounts + words + b"\x01\x00", records_max=10)
    assert columns == {"amount": [12.5, -1.0], "count": [3, 4], "country": ["NO", ""], "known": [True, False]}
    # A nested list, and whole numbers where floats are declared, as some clients send them.
    assert read_columns([tensor("a", "FP32", [2, 1], [[1], [2]])], b"", records_max=10) == {"a": [1.0, 2.0]}


WRONG = {
    "too few values": ([tensor("a", "FP64", [2], [1.0])], b""),
    "a list of no values": ([tensor("a", "FP64", [1], 1.0)], b""),
    "three dimensions": ([tensor("a", "FP64", [1, 1, 1], [1.0])], b""),
    "a negative size": ([tensor("a", "FP64", [-1], [])], b""),
    "many records": ([tensor("a", "FP64", [11], [1.0] * 11)], b""),
    "an unknown type": ([tensor("a", "FLOAT", [1], [1.0])], b""),
    "too few bytes": ([tensor("a", "FP64", [1], size=8)], b"1234"),
    "bytes of another size": ([tensor("a", "FP64", [1], size=4)], b"1234"),
    "a negative length": ([tensor("a", "FP64", [1], size=-8)], b"12345678"),
    "bytes of nobody": ([tensor("a", "FP64", [1], [1.0])], b"1234"),
    "a string that breaks off": ([tensor("a", "BYTES", [1], size=6)], struct.pack("<I", 9) + b"ab"),
    "a string that is no text": ([tensor("a", "BYTES", [1], size=5)], struct.pack("<I", 1) + b"\xff"),
    "two of one name": ([tensor("a", "FP64", [1], [1.0])] * 2, b""),
    "two lengths": ([tensor("a", "FP64", [1], [1.0]), tensor("b", "FP64", [2], [1.0, 2.0])], b""),
    "none at all": ([], b""),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_tensor_that_is_not_what_it_says_is_refused(name: str) -> None:
    with pytest.raises(TensorInvalid):
        read_columns(*WRONG[name], records_max=10)


def test_outputs_have_a_type_and_bytes() -> None:
    assert [datatype_of(values) for values in ([True], ["a"], [1, 2], [0.5, 1], [None])] == [
        "BOOL", "BYTES", "INT64", "FP64", "FP64"
    ]  # fmt: skip
    assert write_bytes([True, False], "BOOL") == b"\x01\x00"
    assert write_bytes(["NO"], "BYTES") == b"\x02\x00\x00\x00NO"
    assert write_bytes([1.5], "FP64") == struct.pack("<d", 1.5)
