"""Dead letters: the record as it came, one set of reasons, and the four dialects that are read."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.producers.deadletter import REPLAY_COUNT, Reason, add_reason, is_learned, read, replay_count, strip

NAMES = st.text(max_size=20).filter(lambda name: not name.startswith(("__dlq.", "dlq.")))
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=20)), max_size=8)


def sealed(headers: Any = None, **more: Any) -> list[tuple[str, bytes | None]]:
    told = {
        "topic": "features",
        "partition": 3,
        "offset": 1042,
        "group": "fraud",
        "code": "not_json",
        "stage": "decode",
        "field": "features.amount",
        "message": "no JSON",
        "timestamp_ms": 1_700_000_000_000,
    }
    return add_reason(headers, **{**told, **more})


def test_the_headers_say_where_it_stood_and_why_it_was_refused_in_utf8() -> None:
    assert sealed() == [
        ("__dlq.errors.topic", b"features"),
        ("__dlq.errors.partition", b"3"),
        ("__dlq.errors.offset", b"1042"),
        ("__dlq.errors.group", b"fraud"),
        ("__dlq.errors.delivery.count", b"1"),
        ("__dlq.errors.message", b"no JSON"),
        ("dlq.status", b"400"),
        ("dlq.code", b"not_json"),
        ("dlq.field", b"features.amount"),
        ("dlq.stage", b"decode"),
        ("dlq.timestamp", b"1700000000000"),
        ("dlq.replay.count", b"0"),
    ]


def test_a_sealed_value_is_read_again() -> None:
    assert read(sealed(message="nø JSON", topic="features-æ")) == Reason(
        "headrace",
        topic="features-æ",
        partition=3,
        offset=1042,
        group="fraud",
        code="not_json",
        stage="decode",
        field="features.amount",
        message="nø JSON",
        timestamp_ms=1_700_000_000_000,
        replay_count=0,
    )


@given(HEADERS)
def test_the_records_own_headers_stay_byte_for_byte_in_order_and_first(headers: list[tuple[str, bytes | None]]) -> None:
    whole = sealed(headers)
    assert whole[: len(headers)] == headers
    assert strip(whole) == headers


@given(HEADERS)
def test_the_reasons_of_an_earlier_dead_letter_are_replaced_and_never_pile_up(
    headers: list[tuple[str, bytes | None]],
) -> None:
    once = sealed(headers)
    twice = sealed(sealed(headers, code="bad_label", field="label", offset=7, message="an earlier one"))
    assert twice == once


def test_the_count_of_replays_is_the_engines_to_tell_and_never_the_records_own() -> None:
    again = sealed([(REPLAY_COUNT, b"2"), ("mine", b"1")], replays=1)
    assert again.count((REPLAY_COUNT, b"1")) == 1
    assert [name for name, _ in again].count(REPLAY_COUNT) == 1
    assert replay_count(again) == read(again).replay_count == 1
    assert read(sealed([(REPLAY_COUNT, b"99"), ("dlq.learned", b"true")])).replay_count == 0


@pytest.mark.parametrize("told", [None, b"", b"x", b"-99", b" 3", b"1_0", "³".encode(), b"9" * 19, b"9" * 5_000])
def test_a_number_that_no_replay_wrote_counts_as_none(told: bytes | None) -> None:
    assert replay_count([(REPLAY_COUNT, told)]) == 0
    own = [("__dlq.errors.topic", b"features"), ("__dlq.errors.offset", told), ("dlq.timestamp", told)]
    assert (read(own).offset, read(own).timestamp_ms) == (-1, None)


def test_that_the_model_had_learned_it_is_told_once_and_never_by_the_record_itself() -> None:
    learned = sealed([("mine", b"1")], learned=True)
    assert is_learned(learned)
    assert learned.count(("dlq.learned", b"true")) == 1
    assert not is_learned(sealed(learned))
    assert not is_learned(sealed())
    assert not is_learned([("dlq.learned", b"false")])
    assert not is_learned([("dlq.learned", b"true"), ("dlq.learned", b"")])
    assert strip(learned) == [("mine", b"1")]


def test_a_part_that_was_left_out_is_named_with_its_size() -> None:
    headers = sealed(omitted={"key": 7, "value": 1_000_000})
    assert headers[-2:] == [("dlq.key.omitted", b"7"), ("dlq.value.omitted", b"1000000")]
    assert read(headers).omitted == {"key": 7, "value": 1_000_000}
    assert strip(headers) == []
    assert read(sealed(headers)).omitted == {}


def test_the_system_that_wrote_last_tells_where_a_dead_letter_came_from() -> None:
    connect = [("__connect.errors.topic", b"orders"), ("__connect.errors.offset", b"1")]
    assert (read([*sealed(), *connect]).dialect, read([*sealed(), *connect]).topic) == ("connect", "orders")
    assert read([*connect, *sealed()]).topic == "features"


def test_a_long_message_is_cut_at_1_kib_on_the_border_of_a_character() -> None:
    for message, size in (
        ("x" * 2_000, 1_024),
        ("x" * 1_024, 1_024),
        ("æ" * 600, 1_024),
        ("x" + "æ" * 600, 1_023),
        ("😀" * 256, 1_024),
        ("😀" * 257, 1_024),
        ("x" + "😀" * 256, 1_021),
    ):
        cut = dict(sealed(message=message))["__dlq.errors.message"]
        assert cut is not None
        assert len(cut) == size
        assert message.startswith(cut.decode())


def test_half_of_a_surrogate_pair_in_a_message_does_not_stop_the_dead_letter() -> None:
    assert dict(sealed(message="a\ud800b"))["__dlq.errors.message"] == b"a?b"


def test_dead_letters_of_many_places_and_kinds_do_not_mix() -> None:
    kinds = [("features", 0, "fraud", "a", "b"), ("features", 1, "fraud", "b", "a"), ("labels", 0, "other", "a", "a")]
    for topic, partition, group, code, stage in kinds * 2:
        headers = sealed(topic=topic, partition=partition, group=group, code=code, stage=stage)
        found = read(headers)
        assert (found.topic, found.partition, found.group, found.code, found.stage) == (
            topic,
            partition,
            group,
            code,
            stage,
        )
        # What is rendered once stays what it was, whatever a caller does with its own.
        headers.clear()


def test_connects_headers_are_read() -> None:
    told = {
        "topic": "orders",
        "partition": "1",
        "offset": "40",
        "connector.name": "sink",
        "task.id": "0",
        "stage": "VALUE_CONVERTER",
        "class.name": "org.apache.kafka.connect.json.JsonConverter",
        "exception.class.name": "org.apache.kafka.connect.errors.DataException",
        "exception.message": "bad",
        "exception.stacktrace": "at …",
    }
    assert read([(f"__connect.errors.{name}", text.encode()) for name, text in told.items()]) == Reason(
        "connect",
        topic="orders",
        partition=1,
        offset=40,
        group="sink",
        code="org.apache.kafka.connect.errors.DataException",
        stage="VALUE_CONVERTER",
        message="bad",
    )


def test_streams_headers_are_read() -> None:
    told = {
        "topic": "orders",
        "partition": "2",
        "offset": "41",
        "exception": "org.apache.kafka.common.errors.SerializationException",
        "message": "bad",
        "stacktrace": "at …",
    }
    assert read([(f"__streams.errors.{name}", text.encode()) for name, text in told.items()]) == Reason(
        "streams",
        topic="orders",
        partition=2,
        offset=41,
        code="org.apache.kafka.common.errors.SerializationException",
        message="bad",
    )


def test_springs_headers_are_read_with_their_binary_numbers() -> None:
    headers = [
        ("kafka_dlt-original-topic", b"orders"),
        ("kafka_dlt-original-partition", struct.pack(">i", 3)),
        ("kafka_dlt-original-offset", struct.pack(">q", 5_000_000_000)),
        ("kafka_dlt-original-timestamp", struct.pack(">q", 1_700_000_000_000)),
        ("kafka_dlt-original-consumer-group", b"billing"),
        ("kafka_dlt-exception-fqcn", b"org.springframework.kafka.listener.ListenerExecutionFailedException"),
        ("kafka_dlt-exception-cause-fqcn", b"java.lang.IllegalStateException"),
        ("kafka_dlt-exception-message", b"bad"),
    ]
    assert read(headers) == Reason(
        "spring",
        topic="orders",
        partition=3,
        offset=5_000_000_000,
        group="billing",
        code="java.lang.IllegalStateException",
        message="bad",
        timestamp_ms=1_700_000_000_000,
    )


def test_our_own_headers_win_over_those_that_another_system_left_before() -> None:
    assert read(sealed([("__connect.errors.topic", b"orders"), ("__connect.errors.offset", b"1")])).offset == 1_042


def test_a_record_without_any_of_them_has_no_reason_and_numbers_that_are_none_are_unknown() -> None:
    assert read(None) == read([("mine", b"1")]) == Reason("none")
    assert read([("__connect.errors.topic", b"t"), ("__connect.errors.partition", b"x")]).partition == -1
    assert read([("kafka_dlt-original-topic", b"t"), ("kafka_dlt-original-offset", b"12")]).offset == -1
    assert read([("__dlq.errors.topic", None), ("__dlq.errors.message", b"\xff")]).message == "\ufffd"
