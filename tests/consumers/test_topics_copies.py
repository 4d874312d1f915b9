"""How a topic is kept, and what the loss of a broker would do to it."""

import pytest

from headrace.consumers.client_properties import SettingsRefused
from headrace.consumers.topics import Copies, Topics


@pytest.mark.parametrize(
    ("copies", "words"),
    [
        (Copies(brokers=1, replicas=1, insync_min=1, unclean=False), ""),
        (Copies(brokers=3, replicas=3, insync_min=2, unclean=False), ""),
        (Copies(brokers=3, replicas=1, insync_min=1, unclean=False), "one replica"),
        (Copies(brokers=3, replicas=3, insync_min=3, unclean=False), "stops all writes"),
        (Copies(brokers=3, replicas=3, insync_min=1, unclean=False), "only one broker"),
        (Copies(brokers=3, replicas=3, insync_min=2, unclean=True), "unclean"),
    ],
)
def test_the_weakness_of_a_topic_is_what_one_lost_broker_would_do(copies: Copies, words: str) -> None:
    assert words in copies.weakness()
    assert bool(copies.weakness()) == bool(words)


@pytest.mark.parametrize("settings", [{"no.such.property": "x"}, {"security.protocol": "carrier-pigeon"}])
def test_a_property_that_librdkafka_does_not_take_is_refused_with_its_words(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsRefused, match=next(iter(settings))) as caught:
        Topics({"bootstrap.servers": "127.0.0.1:1", **settings})
    assert "kafka.librdkafka" in caught.value.hint
