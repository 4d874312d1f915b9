import pytest
from confluent_kafka import KafkaError

from headrace.consumers.consumer_errors import ConnectionFault, ConnectionFaults


@pytest.mark.parametrize(
    ("code", "text", "kind", "passes"),
    [
        (KafkaError._AUTHENTICATION, "SASL authentication error: Authentication failed", "user", False),
        (KafkaError._AUTHENTICATION, "Failed to acquire SASL OAUTHBEARER token: x", "token", False),
        (KafkaError._AUTHENTICATION, 'SASL authentication error: {"status":"invalid_token"}', "token", False),
        (KafkaError._SSL, "SSL handshake failed: certificate verify failed", "certificate", False),
        (KafkaError._TRANSPORT, "Receive failed: tlsv13 alert certificate required: x", "certificate", False),
        (KafkaError._SSL, "SSL handshake failed: connecting to a PLAINTEXT broker listener?", "listener", True),
        (KafkaError._TRANSPORT, "Disconnected: incorrect security.protocol configuration", "listener", True),
        (KafkaError._TRANSPORT, "Connect to ipv4#127.0.0.1:1 failed: Connection refused", "outage", True),
        (KafkaError._RESOLVE, "Failed to resolve 'kafka:9092'", "outage", True),
    ],
)
def test_a_fault_of_a_connection_says_what_to_check(code: int, text: str, kind: str, *, passes: bool) -> None:
    faults = ConnectionFaults(clock=lambda: 1.0)
    faults.note(KafkaError(code, f"{text} (after 3ms in state SSL_HANDSHAKE, 2 identical error(s) suppressed)"))
    found = faults.best()
    assert found is not None
    assert (found.text, found.kind, found.passes) == (text, kind, passes)


def test_of_several_faults_the_one_that_tells_most_counts_until_it_is_old() -> None:
    now = [1.0]
    faults = ConnectionFaults(clock=lambda: now[0])
    assert faults.best() is None
    faults.note(KafkaError(KafkaError._SSL, "certificate verify failed"))
    faults.note(KafkaError(KafkaError._TRANSPORT, "Disconnected"))
    faults.note(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert faults.best() == ConnectionFault("certificate verify failed", "certificate")
    now[0] += 60
    assert faults.best() is None


def test_a_connection_that_is_closed_without_a_word_points_to_the_protocol() -> None:
    faults = ConnectionFaults(clock=lambda: 1.0)
    faults.note(KafkaError(KafkaError._TIMED_OUT, "slow"))
    assert faults.best() is None
    faults.note(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    found = faults.best()
    assert found is not None
    assert (found.kind, "security.protocol" in found.text) == ("listener", True)
