"""Every error that the client knows has one meaning to who sends, and one to who reads."""

from types import ModuleType

import pytest
from confluent_kafka import KafkaError

from headrace.consumers import consumer_errors as reading
from headrace.producers import producer_errors as sending

CODES = {name: code for name in dir(KafkaError) if isinstance(code := getattr(KafkaError, name), int)}
# As Kafka's own table of errors has it.
RETRIABLE = (
    "INVALID_MSG UNKNOWN_TOPIC_OR_PART LEADER_NOT_AVAILABLE NOT_LEADER_FOR_PARTITION REQUEST_TIMED_OUT "
    "REPLICA_NOT_AVAILABLE NETWORK_EXCEPTION COORDINATOR_LOAD_IN_PROGRESS COORDINATOR_NOT_AVAILABLE NOT_COORDINATOR "
    "NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND NOT_CONTROLLER CONCURRENT_TRANSACTIONS KAFKA_STORAGE_ERROR "
    "FETCH_SESSION_ID_NOT_FOUND INVALID_FETCH_SESSION_EPOCH LISTENER_NOT_FOUND FENCED_LEADER_EPOCH "
    "UNKNOWN_LEADER_EPOCH OFFSET_NOT_AVAILABLE PREFERRED_LEADER_NOT_AVAILABLE ELIGIBLE_LEADERS_NOT_AVAILABLE "
    "UNSTABLE_OFFSET_COMMIT THROTTLING_QUOTA_EXCEEDED UNKNOWN_TOPIC_ID INCONSISTENT_TOPIC_ID"
)
both = pytest.mark.parametrize("module", [reading, sending], ids=["reading", "sending"])


@both
def test_every_code_of_the_client_stands_in_the_table_once(module: ModuleType) -> None:
    told = [name for names in module._CODES.values() for name in names.split()]
    assert sorted(told) == sorted(CODES)


@both
def test_what_kafka_calls_retriable_passes(module: ModuleType) -> None:
    assert {module.meaning_of(CODES[name]) for name in RETRIABLE.split()} == {"passes"}


@both
def test_a_code_of_a_later_client_passes(module: ModuleType) -> None:
    assert module.meaning_of(12_345) == "passes"


@both
def test_a_right_that_is_missing_is_never_waited_for(module: ModuleType) -> None:
    denied = [name for name in CODES if "AUTHORIZATION" in name or "AUTHENTICATION" in name]
    assert {module.meaning_of(CODES[name]) for name in denied} == {"right"}


def test_what_never_passes_says_what_to_do_and_what_passes_is_waited_for() -> None:
    for code in CODES.values():
        told = sending.refusal(code)
        assert (told is None) == (sending.meaning_of(code) in {"passes", "stale"})
        assert told is None or all(told)


@pytest.mark.parametrize("name", ["INVALID_RECORD", "INVALID_TIMESTAMP", "INVALID_REQUIRED_ACKS", "POLICY_VIOLATION"])
def test_a_record_that_kafka_will_never_take_is_no_outage(name: str) -> None:
    assert sending.meaning_of(CODES[name]) in {"record", "setting"}


@pytest.mark.parametrize("name", ["POLICY_VIOLATION", "INVALID_SESSION_TIMEOUT", "UNSUPPORTED_VERSION"])
def test_a_setting_that_the_broker_does_not_take_is_no_outage(name: str) -> None:
    assert reading.meaning_of(CODES[name]) == "setting"
