"""What fits together and what does not, of a partition's mark, snapshot, offsets and log."""

import msgspec
import pytest

from headrace.consumers.group_offsets import PartitionOffsets
from headrace.consumers.topics import Topic
from headrace.pipeline.recovery import consistency
from headrace.pipeline.recovery.consistency import NameTaken, PartitionFacts, SavedSnapshot, StateError, TopicReplaced
from headrace.pipeline.recovery.offset_metadata import JoinMetadata, OffsetMetadata
from headrace.state.labels.join_state import LabelCounts

TOPIC = Topic("features", 1, "id-1", 1_000_000, compacted=False)
LABELS = msgspec.structs.replace(TOPIC, name="labels", id="id-2")
BOTH = msgspec.structs.replace(TOPIC, labels=LABELS)
SAVED = SavedSnapshot("features", "id-1", 1_000, created_ms=1_700_000_000_000)


def mark(offset: int, *, topic: str = "id-1", snapshot: int = 1_000, join: JoinMetadata | None = None) -> str:
    return msgspec.json.encode(OffsetMetadata(1, snapshot, 0, 9, 9, 0, 9, join, offset=offset, topic=topic)).decode()


def join(*, topic: str = "id-2", offset: int = 50) -> JoinMetadata:
    return JoinMetadata(offset, 0, "", LabelCounts(), 0, 0, topic)


def facts(place: PartitionOffsets, saved: SavedSnapshot | None = SAVED, *, topic: Topic = TOPIC) -> PartitionFacts:
    return PartitionFacts(0, topic, place, saved)


GOOD = {
    "a first start": facts(PartitionOffsets(None, "", 0, 500), None),
    "a first start where another tool has set the offset": facts(PartitionOffsets(300, "", 0, 500), None),
    "a mark at the committed offset": facts(PartitionOffsets(1_200, mark(1_200), 0, 1_500)),
    "a mark of a release that wrote no offset": facts(PartitionOffsets(1_200, mark(-1), 0, 1_500)),
    "a broker without ids": facts(
        PartitionOffsets(1_200, mark(1_200), 0, 1_500), topic=msgspec.structs.replace(TOPIC, id="")
    ),
    "an offset set to the snapshot": facts(PartitionOffsets(1_000, "", 0, 1_500)),
    "an offset set back below the snapshot": facts(PartitionOffsets(10, "", 0, 1_500)),
    "a new topic's history that was not saved yet": facts(
        PartitionOffsets(40, mark(40, snapshot=0), 0, 500), SavedSnapshot("features", "id-0", 1_000)
    ),
    "a renamed topic's history that was not saved yet": facts(
        PartitionOffsets(40, mark(40, snapshot=0), 0, 500), SavedSnapshot("earlier", "id-0", 1_000)
    ),
    "the end of the log": facts(PartitionOffsets(1_500, mark(1_500), 0, 1_500)),
    "labels": facts(
        PartitionOffsets(1_200, mark(1_200, join=join()), 0, 1_500, PartitionOffsets(50, "", 0, 60)), topic=BOTH
    ),
}


@pytest.mark.parametrize("found", GOOD.values(), ids=GOOD)
def test_a_consistent_state_is_accepted(found: PartitionFacts) -> None:
    consistency.check(found)


BAD: dict[str, tuple[PartitionFacts, type[StateError], str]] = {
    "a topic made again, seen by the mark": (
        facts(PartitionOffsets(1_200, mark(1_200, topic="id-0"), 0, 1_500)),
        TopicReplaced,
        "the features topic features was deleted and made again",
    ),
    "a topic made again, with which the offsets went": (
        facts(PartitionOffsets(None, "", 0, 1_500), SavedSnapshot("features", "id-0", 1_000)),
        TopicReplaced,
        "the features topic features was deleted and made again",
    ),
    "a labels topic made again": (
        facts(
            PartitionOffsets(1_200, mark(1_200, join=join(topic="id-0")), 0, 1_500, PartitionOffsets(50, "", 0, 60)),
            topic=BOTH,
        ),
        TopicReplaced,
        "the labels topic labels was deleted and made again",
    ),
    "another project of the same name": (
        facts(
            PartitionOffsets(None, "", 0, 1_500), SavedSnapshot("payments", "id-9", 1_000, created_ms=1_700_000_000_000)
        ),
        NameTaken,
        "taught from the topic payments (saved 2023-11-14 22:13:20 UTC), and this project's features topic is features",
    ),
    "another project that has overwritten this one's models": (
        facts(PartitionOffsets(1_200, mark(1_200), 0, 1_500), SavedSnapshot("payments", "id-9", 1_000)),
        NameTaken,
        "the name is taken",
    ),
    "an offset past the log's end": (
        facts(PartitionOffsets(99, "", 0, 10), None),
        StateError,
        "partition 0: the group has committed offset 99 of features, and the log ends at 10",
    ),
    "a mark past the log's end": (
        facts(PartitionOffsets(1_200, mark(1_200), 0, 1_100)),
        StateError,
        "committed offset 1200 of features, and the log ends at 1100",
    ),
    "labels past their log's end": (
        facts(PartitionOffsets(1_200, mark(1_200, join=join()), 0, 1_500, PartitionOffsets(50, "", 0, 40)), topic=BOTH),
        StateError,
        "committed offset 50 of labels, and the log ends at 40",
    ),
    "an offset set forward": (
        facts(PartitionOffsets(1_500, "", 0, 1_500)),
        StateError,
        "to 1500: it carries no mark of this pipeline, whose newest snapshot stands at 1000; whether the 500 records",
    ),
    "an offset set forward with the mark of another one": (
        facts(PartitionOffsets(1_500, mark(1_100), 0, 1_500)),
        StateError,
        "the 500 records between",
    ),
    "labels' offset set forward, and no mark": (
        facts(
            PartitionOffsets(1_000, "", 0, 1_500, PartitionOffsets(70, "", 0, 80)),
            msgspec.structs.replace(SAVED, labels_offset=50),
            topic=BOTH,
        ),
        StateError,
        "whether the 20 labels between were learned is not known",
    ),
    "a group that is gone": (
        facts(PartitionOffsets(None, "", 0, 1_500)),
        StateError,
        "partition 0 has a model in the store, which stands at offset 1000, but the group has no committed offset",
    ),
}


@pytest.mark.parametrize(("found", "kind", "words"), BAD.values(), ids=BAD)
def test_an_inconsistency_is_named_with_its_remedy(found: PartitionFacts, kind: type[StateError], words: str) -> None:
    with pytest.raises(kind) as raised:
        consistency.check(found)
    assert words in str(raised.value)
    assert "`headrace run --on-state-loss fresh`" in raised.value.hint


BEGINNINGS = {
    "nothing was committed": (facts(PartitionOffsets(None, "", 7, 500)), (7, -1)),
    "something was": (facts(PartitionOffsets(300, mark(300), 7, 500)), (300, -1)),
    "the log begins later": (facts(PartitionOffsets(3, mark(3), 7, 500)), (7, -1)),
    "the log ends before": (facts(PartitionOffsets(900, "", 7, 500)), (500, -1)),
    "it was in another topic": (facts(PartitionOffsets(300, mark(300, topic="id-0"), 7, 500)), (7, -1)),
    "the labels were in another topic": (
        facts(
            PartitionOffsets(300, mark(300, join=join(topic="id-0")), 7, 500, PartitionOffsets(50, "", 3, 60)),
            topic=BOTH,
        ),
        (300, 3),
    ),
}


@pytest.mark.parametrize(("found", "place"), BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_new_history_begins_where_the_group_stands_in_the_log(found: PartitionFacts, place: tuple[int, int]) -> None:
    assert consistency.beginning(found) == place


def test_every_partition_that_does_not_fit_is_named() -> None:
    places = {
        0: PartitionOffsets(99, "", 0, 10),
        1: PartitionOffsets(5, mark(5), 0, 10),
        2: PartitionOffsets(3, mark(3), 7, 10),
    }
    told = [str(error) for error in consistency.faults(TOPIC, places, {})]
    assert told == [
        "partition 0: the group has committed offset 99 of features, and the log ends at 10",
        "partition 2: the log of features begins at 7, past the committed offset 3: 4 records are gone",
    ]


@pytest.mark.parametrize("note", [None, {}, {"topic": 1}, {"topic": "t", "topic_id": "i", "offset": "x"}])
def test_a_note_without_the_fields_counts_as_no_note(note: dict[str, object] | None) -> None:
    assert consistency.saved_of(note) is None


def test_a_finding_about_a_whole_topic_is_reported_once() -> None:
    place = PartitionOffsets(5, mark(5, topic="id-0"), 0, 10)
    assert len(list(consistency.faults(TOPIC, {0: place, 1: place}, {}))) == 1


def test_the_offset_of_the_labels_comes_from_the_mark_and_not_from_another_tool() -> None:
    place = PartitionOffsets(5, mark(5, join=join(offset=50)), 0, 10, PartitionOffsets(99_999, "", 0, 60))
    told = consistency.by_mark(place)
    assert told.labels == PartitionOffsets(50, "", 0, 60)
    assert told.lag == 15
    assert not list(consistency.faults(BOTH, {0: told}, {}))
    for other in (mark(5), "", mark(4, join=join(offset=50))):
        unsaid = msgspec.structs.replace(place, metadata=other)
        assert consistency.by_mark(unsaid) == unsaid
