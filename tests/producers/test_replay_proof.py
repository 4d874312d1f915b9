"""What proves a replay, and that nothing else does."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.consumers.record import Record
from headrace.producers.replay_proof import NEVER, ReplayClaim, new_secret, read, sign

SECRET = new_secret()
FIELDS = st.none() | st.binary(max_size=20)
KNOWN: dict[str, Any] = {"secret": SECRET, "topic": "in", "partition": 3, "key": b"k", "value": b"v"}


def _read(headers: Any, *, partition: int = 3, key: Any = b"k", value: Any = b"v", **more: Any) -> ReplayClaim:
    record = Record(partition, 7, 5, key, value, headers)
    return read(headers, record=record, **{"secret": SECRET, "topic": "in", **more})


@given(count=st.integers(0, 9), learned=st.booleans(), key=FIELDS, value=FIELDS)
def test_the_signed_headers_of_a_replay_are_believed(
    count: int, *, learned: bool, key: bytes | None, value: bytes | None
) -> None:
    claim = ReplayClaim(count, learned)
    headers = [("mine", b"1"), *sign(claim, **{**KNOWN, "key": key, "value": value})]
    assert _read(headers, key=key, value=value) == claim


@pytest.mark.parametrize(
    "other",
    [{"secret": new_secret()}, {"secret": ""}, {"topic": "on"}, {"partition": 4}, {"key": None}, {"value": b""}],
)
def test_a_signature_of_another_record_or_pipeline_is_not_believed(other: dict[str, Any]) -> None:
    assert _read(sign(ReplayClaim(2, learned=True), **KNOWN), **other) == NEVER


def test_headers_that_were_changed_after_the_signing_are_not_believed() -> None:
    count, learned, proof = sign(ReplayClaim(2, learned=True), **KNOWN)
    for headers in (
        None,
        [],
        [count, learned],
        [count, proof],
        [learned, proof],
        [("dlq.replay.count", b"1"), learned, proof],
        [count, learned, (proof[0], None)],
        [count, learned, (proof[0], b"\xff" * 64)],
        [count, learned, proof, ("dlq.replay.count", b"-99")],
        [count, ("dlq.learned", b"True"), proof],
    ):
        assert _read(headers) == NEVER, headers


def test_without_a_secret_nothing_is_believed() -> None:
    assert _read(sign(ReplayClaim(1), **{**KNOWN, "secret": ""}), secret="") == NEVER
