import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model

from headrace.pipeline.recovery import offset_metadata
from headrace.pipeline.recovery.offset_metadata import OffsetMetadata
from headrace.state.models.learner import RiverLearner
from headrace.state.models.spec import brief
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shard import Counts, Shard
from headrace.state.store.lua_scripts import NUMBER_MAX

OFFSET_METADATA_BYTES_MAX = 4_096
"""What a broker takes of an offset's metadata by default (offset.metadata.max.bytes)."""

_NUMBERS = st.integers(0, 2**62)
_EPOCHS = st.integers(0, NUMBER_MAX)


def shard(counts: Counts, *, epoch: int = 0, start: int = 0, snapshot: int = 0) -> Shard:
    made = Shard(UndoableModel(RiverLearner(linear_model.LogisticRegression())), partition=0, start=start)
    made.epoch, made.counts = epoch, counts
    made.saved({}, place=(snapshot, made.labels_offset), version=0)
    return made


@settings(max_examples=60)
@given(st.builds(Counts, _NUMBERS, _NUMBERS, _NUMBERS, _NUMBERS), _EPOCHS, _NUMBERS, _NUMBERS)
def test_a_mark_tells_what_was_true_of_the_shard(counts: Counts, epoch: int, start: int, moved: int) -> None:
    snapshot = start + moved
    text = offset_metadata.of(shard(counts, epoch=epoch, start=start, snapshot=snapshot))
    found = offset_metadata.read(text)
    assert found is not None
    assert (found.epoch, found.start, found.snapshot) == (epoch, start, snapshot)
    assert offset_metadata.counts(found) == counts
    assert len(text.encode()) < OFFSET_METADATA_BYTES_MAX / 4


def test_the_names_in_the_log_stay_as_they_are() -> None:
    """Marks of an earlier release stand in the offsets of running groups."""
    text = offset_metadata.of(shard(Counts(4, 5, 6, 7), epoch=1, snapshot=3, start=2), topic="E60VNKObT9WqiQ4rMuiT9g")
    made = shard(Counts())
    told = {"e": 1, "x": 3, "s": 2, "r": 4, "p": 5, "d": 6, "n": 7, "m": brief(made.model.spec, "partition"), "o": 2}
    assert json.loads(text) == {**told, "t": "E60VNKObT9WqiQ4rMuiT9g"}
    assert offset_metadata.read(SOUND) == OffsetMetadata(1, 3, 2, 4, 5, 6, 7)


def test_skipped_records_stand_in_the_mark_where_there_are_any() -> None:
    text = offset_metadata.of(shard(Counts(9, 4, 2, 4, 3)))
    assert json.loads(text)["i"] == 3
    found = offset_metadata.read(offset_metadata.withdraw(text, 1))
    assert found is not None
    assert offset_metadata.counts(found) == Counts(9, 3, 3, 4, 3)


def test_the_secret_of_replays_rides_along_and_what_is_withdrawn_moves_two_counts() -> None:
    made = shard(Counts(4, 5, 6, 7))
    made.secret = "0f" * 16
    found = offset_metadata.read(offset_metadata.withdraw(offset_metadata.of(made), 2))
    assert found is not None
    assert (found.secret, offset_metadata.counts(found)) == (made.secret, Counts(4, 3, 8, 7))


def test_fields_of_a_later_release_are_ignored() -> None:
    assert offset_metadata.read(SOUND[:-1] + ',"new":[8]}') == OffsetMetadata(1, 3, 2, 4, 5, 6, 7)


SOUND = '{"e":1,"x":3,"s":2,"r":4,"p":5,"d":6,"n":7}'
FOREIGN = ["", " ", "{}", "null", "[]", "17", "consumer-1", "\x00", SOUND[:-1], SOUND + SOUND, SOUND[:-6] + "}"]
NESTED = ["[" * 4_000, '{"later":' + "[" * 4_000]


@pytest.mark.parametrize("metadata", [*FOREIGN, SOUND.replace("1", '"1"'), SOUND.replace("1", "1.5"), *NESTED])
def test_metadata_of_other_tools_is_no_mark(metadata: str) -> None:
    assert offset_metadata.read(metadata) is None


ABSURD = [
    {"e": -1},
    {"e": 10**300},
    {"x": -1},
    {"s": -5},
    {"s": 4},
    {"r": -1},
    {"n": 2**70},
    {"j": [5, 6, "", [0] * 10, 0, 0]},
    {"j": [5, -2, "", [0] * 10, 0, 0]},
    {"j": [5, 0, "", [-1] * 10, 0, 0]},
    {"j": [5, 0, "", [0] * 10, -1, 0]},
    {"j": [5]},
    {"m": 7},
    {"o": 1},
    {"o": -2},
]


@pytest.mark.parametrize("change", ABSURD, ids=str)
def test_a_mark_that_can_not_be_true_is_none(change: dict[str, Any]) -> None:
    assert offset_metadata.read(json.dumps({**json.loads(SOUND), **change})) is None


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_any_metadata_is_read_or_left(metadata: str) -> None:
    assert offset_metadata.read(metadata) is None or metadata.strip().startswith("{")
