"""Nothing that was read counts before its topics' ids were asked after it was read."""

import threading
import time
from collections.abc import Callable, Collection, Mapping

import pytest

from headrace.consumers.source import SourceAway
from headrace.consumers.topics import Topic
from headrace.pipeline.recovery.consistency import TopicReplaced
from headrace.pipeline.recovery.topic_identity import TopicIdentity

LABELS = Topic("labels", 1, "id-2", 1_000_000, compacted=False)
TOPIC = Topic("features", 1, "id-1", 1_000_000, compacted=False, labels=LABELS)
SAME = {"features": "id-1", "labels": "id-2"}


class Broker:
    """Answers with what `ids` holds, counts the questions, and can be held up."""

    def __init__(self) -> None:
        self.ids: Mapping[str, str] | Exception = SAME
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()

    def ask(self, names: Collection[str]) -> dict[str, str]:
        found = self.ids
        self.asked += 1
        assert self.gate.wait(10)
        if isinstance(found, Exception):
            raise found
        return {name: found[name] for name in names if name in found}


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_read_is_confirmed_by_a_question_that_was_asked_after_it() -> None:
    broker = Broker()
    identity = TopicIdentity(TOPIC, ask=broker.ask)
    assert identity.is_confirmed
    identity.read()
    identity.confirm(identity.read_at)
    assert identity.is_confirmed
    assert broker.asked == 1
    identity.confirm(identity.read_at)
    assert broker.asked == 1, "one question is enough"


def test_a_question_that_was_asked_before_confirms_nothing() -> None:
    broker = Broker()
    identity = TopicIdentity(TOPIC, ask=broker.ask)
    broker.gate.clear()
    identity.read()
    identity.expect(identity.read_at)
    _wait(lambda: broker.asked == 1)
    # The answer to the question under way is of before.
    broker.ids = {**SAME, "features": "id-9"}
    identity.read()
    assert not identity.is_confirmed
    threading.Timer(0.05, broker.gate.set).start()
    with pytest.raises(TopicReplaced, match="the features topic features was deleted and made again"):
        identity.confirm(identity.read_at)


@pytest.mark.parametrize("name", ["features", "labels"])
def test_a_topic_that_was_made_again_is_never_confirmed_any_more(name: str) -> None:
    broker = Broker()
    identity = TopicIdentity(TOPIC, ask=broker.ask)
    broker.ids = {**SAME, name: "id-9"}
    for _ in range(2):
        with pytest.raises(TopicReplaced, match=f"the {name} topic {name} was deleted and made again"):
            identity.confirm()
        broker.ids = SAME
    with pytest.raises(TopicReplaced):
        identity.look()


def test_a_broker_that_is_away_confirms_nothing_until_it_is_back() -> None:
    broker = Broker()
    identity = TopicIdentity(TOPIC, ask=broker.ask)
    broker.ids = SourceAway("nobody is there")
    identity.read()
    for _ in range(2):
        with pytest.raises(SourceAway, match="nobody is there"):
            identity.confirm(identity.read_at)
    assert not identity.is_confirmed
    identity.look()
    broker.ids = SAME
    identity.confirm(identity.read_at)
    assert identity.is_confirmed


def test_a_topic_that_is_gone_is_told_once_an_answer() -> None:
    broker = Broker()
    identity = TopicIdentity(TOPIC, ask=broker.ask)
    broker.ids = {"labels": "id-2"}
    with pytest.raises(SourceAway, match="Kafka has no topic features any more"):
        identity.confirm()
    with pytest.raises(SourceAway, match="Kafka has no topic features any more"):
        identity.look()
    identity.look()


def test_a_broker_that_gives_no_ids_is_not_asked() -> None:
    broker = Broker()
    identity = TopicIdentity(Topic("features", 1, "", 1_000_000, compacted=False), ask=broker.ask)
    identity.read()
    identity.confirm()
    identity.look()
    assert identity.is_confirmed
    assert not broker.asked


def test_a_worker_that_has_slept_asks_before_it_sends_anything() -> None:
    broker = Broker()
    identity = TopicIdentity(TOPIC, ask=broker.ask)
    identity.refresh()
    identity.refresh()
    assert broker.asked == 1
    identity._confirmed_at -= 60.0
    broker.ids = {**SAME, "features": "id-9"}
    with pytest.raises(TopicReplaced):
        identity.refresh()
