"""Snapshots as bytes: what was sealed comes back, and nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import linear_model

from state.learner import RiverLearner
from state.shard import Shard
from state.snapshot import Snapshot, SnapshotError, decode, encode, take


def _snapshot() -> Snapshot:
    shard = Shard(RiverLearner(linear_model.LogisticRegression()), partition=3, start=7)
    shard.learn({"a": 1.0}, label=True)
    shard.score(prediction=True, label=True)
    shard.offset, shard.epoch, shard.counts.learned = 42, 5, 1
    return take(shard, topic="in", topic_id="abc", now_ms=1_700_000_000_000)


SEALED = encode(_snapshot())


def test_what_was_sealed_comes_back() -> None:
    snapshot = decode(SEALED)
    assert (snapshot.topic, snapshot.partition, snapshot.offset, snapshot.start, snapshot.epoch) == ("in", 3, 42, 7, 5)
    assert snapshot.quality.summary() == {"scored": 1, "accuracy": 1.0, "accuracy_recent": 1.0}
    learner = RiverLearner(linear_model.LogisticRegression())
    learner.load(snapshot.model)
    reference = linear_model.LogisticRegression()
    reference.learn_one({"a": 1.0}, y=True)
    assert learner.predict({"a": 1.0})[1] == reference.predict_proba_one({"a": 1.0})


@given(position=st.integers(0, len(SEALED) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(position: int, bit: int) -> None:
    flipped = bytearray(SEALED)
    flipped[position] ^= 1 << bit
    with pytest.raises(SnapshotError):
        decode(bytes(flipped))


@given(length=st.integers(0, len(SEALED) - 1))
def test_a_truncated_snapshot_is_found(length: int) -> None:
    with pytest.raises(SnapshotError):
        decode(SEALED[:length])


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(foreign: bytes) -> None:
    with pytest.raises(SnapshotError):
        decode(foreign)
