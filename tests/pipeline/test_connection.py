from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from headrace.consumers.source import SourceAway
from headrace.pipeline.config.config import Config, load
from headrace.pipeline.connection import explained
from headrace.state.store.store_errors import StoreAway, StoreLoginRefused


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "headrace.toml"
    file.write_text('[kafka]\nbootstrap_servers = "k:1,l:2"\n[redis]\nurl = "redis://u:s3cret@h:3/0"\n')
    return load(file)


def test_an_error_of_a_connection_names_the_address_and_the_key_that_set_it(config: Config) -> None:
    found = explained(SourceAway("Kafka does not answer"), config)
    assert str(found) == "Kafka does not answer; kafka.bootstrap_servers is k:1,l:2"
    assert (found.status, found.hint) == (503, SourceAway.hint)
    found = explained(StoreAway("the store does not answer"), config)
    assert str(found) == "the store does not answer; redis.url is redis://***@h:3/0"
    assert explained(StoreLoginRefused("no"), config).status == 401
    plain = ValueError("something else")
    assert explained(plain, config) is plain


@pytest.mark.parametrize(
    ("code", "text", "status", "hint"),
    [
        (KafkaError._AUTHENTICATION, "SASL authentication error", 401, "sasl.password"),
        (KafkaError._SSL, "certificate verify failed", 401, "ssl.ca.location"),
        (KafkaError._SSL, "connecting to a PLAINTEXT broker listener?", 503, "security.protocol"),
        (KafkaError._TRANSPORT, "Connection refused", 503, SourceAway.hint),
    ],
)
def test_the_reason_is_what_the_client_said_of_its_connection(
    config: Config, code: int, text: str, status: int, hint: str
) -> None:
    config.faults.note(KafkaError(code, text))
    found = explained(SourceAway("Kafka does not answer"), config)
    assert str(found).endswith(f"k:1,l:2: {text}")
    assert (found.status, hint in found.hint) == (status, True)
    assert "Connection" not in str(explained(StoreAway("the store does not answer"), config))
