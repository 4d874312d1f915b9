"""A batch that a topic did not take: what becomes smaller, and what stands."""

import json
from typing import Any

import msgspec
import pytest
from river import linear_model

from headrace.consumers.record import Decoder, Record
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.recovery import offset_metadata
from headrace.pipeline.worker.output_limits import OutputLimits
from headrace.producers.record_size import SizeLimits
from headrace.producers.sink import PlainSink, SinkRefused, SinkTooLarge
from headrace.state.models.learner import RiverLearner
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Counts, Shard

TOPICS = {"predictions": "out", "dead_letters": "dlq.in"}


def limits(predictions: int, dead_letters: int) -> SizeLimits:
    return SizeLimits({"predictions": predictions, "dead_letters": dead_letters})


class Batch:
    """A batch that was learned and fixed, of a record for each key, and what is asked of the topics."""

    def __init__(self, *keys: bytes) -> None:
        self.told = limits(2_000, 2_000)
        self.engine = Engine(decoder=Decoder(), topic="in", name="fraud")
        self.engine.limits = self.told
        self.shard = Shard(UndoableModel(RiverLearner(linear_model.LogisticRegression())), partition=0, start=0)
        value = json.dumps({"features": {"a": 1}, "label": True}).encode()
        self.result = self.engine.run(
            self.shard, [Record(0, i, 5, key, value, None) for i, key in enumerate(keys)], now_ms=5
        )
        self.result.offset, self.result.mark = len(keys), offset_metadata.of(self.shard)
        self.sink = PlainSink({}, outputs=TOPICS, deadline=_never, reach=_never)
        self.limits = OutputLimits(
            self.engine, sink=self.sink, shards={0: self.shard}, topics=TOPICS, ask=lambda: self.told
        )

    def shrink(self, topic: str = "out", refusals: int = 1) -> None:
        error = SinkTooLarge("too large", topic=topic)
        self.limits.shrink({0: self.result}, error, refusals=refusals)

    def sent(self) -> tuple[int, list[int]]:
        records = self.result.records
        letters: Any = records["dead_letters"].headers.values()
        return len(records["predictions"]), [letter.record.offset for letter in letters]


def _never(*_: Any) -> Any:
    raise AssertionError


def _counts(text: str) -> Counts:
    found = offset_metadata.read(text)
    assert found is not None
    return offset_metadata.counts(found)


def test_a_limit_that_was_lowered_is_read_anew_and_what_it_excludes_is_dead_lettered() -> None:
    batch = Batch(b"a", b"b" * 900, b"c")
    # The next batch is learned by now.
    batch.shard.counts = msgspec.structs.replace(batch.shard.counts, records=5, predictions=5)
    batch.told = limits(1_000, 1_500)
    batch.shrink()
    assert batch.sent() == (2, [1])
    assert _counts(batch.result.mark) == Counts(records=3, predictions=2, dead_letters=1, learned=3)
    assert batch.shard.counts == Counts(records=5, predictions=4, dead_letters=1, learned=3)
    assert (batch.engine.limits, batch.sink.batch_bytes_max) == (batch.told, 1_000)


def test_a_batch_of_small_records_is_sent_again_in_smaller_ones() -> None:
    batch = Batch(b"a", b"b")
    batch.told = limits(1_500, 2_000)
    batch.shrink()
    assert (batch.sent(), batch.sink.batch_bytes_max) == ((2, []), 1_500)


@pytest.mark.parametrize("topic", ["out", ""])
def test_where_the_limits_explain_nothing_the_largest_is_taken_for_too_large(topic: str) -> None:
    batch = Batch(b"a", b"b" * 900, b"c")
    batch.shrink(topic)
    assert batch.sent() == (2, [1])
    # What is known of a topic stays known: the next batch is not refused first.
    assert 1_000 < batch.engine.limits.of("predictions") < 1_200
    assert batch.engine.limits.of("dead_letters") == 2_000


def test_an_error_says_what_to_do_if_nothing_can_become_smaller() -> None:
    batch = Batch(b"a")

    def go_on() -> None:
        for refusals in range(1, 30):
            batch.shrink("", refusals)

    with pytest.raises(SinkRefused) as caught:
        go_on()
    assert "max.message.bytes of dlq.in" in caught.value.hint
    assert batch.sent() == (0, [0])


def test_outputs_that_fit_are_not_changed() -> None:
    batch = Batch(b"a", b"b")
    before = msgspec.structs.replace(batch.result, records=dict(batch.result.records))
    assert not batch.limits.apply({0: batch.result})
    assert batch.result == before
