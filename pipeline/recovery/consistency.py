"""Checks whether the mark, the newest snapshot, the offsets and the log of a partition fit together.

Pure, so that `run`, `status` and `doctor` say the same. If something does not fit, the operator must choose.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec

from headrace.consumers.group_offsets import PartitionOffsets
from headrace.consumers.topics import Topic
from headrace.pipeline.hinted_error import HintedError
from headrace.pipeline.recovery import offset_metadata

FRESH = "leave what was learned behind: `headrace run --on-state-loss fresh`"
CHOICES = f"restore what is missing, or {FRESH}"
# The end of the year 9999.
_MS_MAX = 253_402_300_799_000
_SKIPS = (
    "to handle them, set the offset back (kafka-consumer-groups --reset-offsets); to leave them out, begin a new "
    "history there: `headrace run --on-state-loss fresh`"
)


class StateError(HintedError):
    """Raised when the model, the offsets and the log do not fit together, so that the operator must choose."""

    status = 409

    def __init__(self, message: str, *, hint: str = CHOICES) -> None:
        super().__init__(message, hint=hint)


class NameTaken(StateError):
    """Raised when the store holds the models of another features topic under the pipeline's name."""


class TopicReplaced(StateError):
    """Raised when a topic is not the one that the model was taught from, though it has its name."""


class SavedSnapshot(msgspec.Struct, frozen=True):
    """What the store says of a partition's newest snapshot: of which topic it is, where it stands, since when."""

    topic: str
    topic_id: str
    offset: int
    labels_offset: int = -1
    created_ms: Annotated[int, msgspec.Meta(ge=0, le=_MS_MAX)] = 0


class PartitionFacts(msgspec.Struct, frozen=True):
    """What is known of one partition of `topic`: its `place` in Kafka, and the newest of the store's snapshots."""

    partition: int
    topic: Topic
    place: PartitionOffsets
    saved: SavedSnapshot | None

    @property
    def mark(self) -> offset_metadata.OffsetMetadata | None:
        """The committed offset's mark; None where another tool has set the offset."""
        return mark_of(self.place.metadata, self.place.committed)


def saved_of(note: Mapping[str, Any] | None) -> SavedSnapshot | None:
    """Read what the store notes of a snapshot; None where there is none, or it does not tell."""
    try:
        return None if note is None else msgspec.convert(note, SavedSnapshot)
    except msgspec.ValidationError:
        return None


def mark_of(metadata: str, offset: int | None) -> offset_metadata.OffsetMetadata | None:
    """Read the mark of a committed offset; None where it was written beside another one."""
    found = offset_metadata.read(metadata)
    return None if found is not None and found.offset not in {-1, offset} else found


def by_mark(place: PartitionOffsets) -> PartitionOffsets:
    """Let the place in the labels be what the features' mark tells: the group's own offset may be another tool's."""
    found = mark_of(place.metadata, place.committed)
    if place.labels is None or found is None or found.join is None:
        return place
    return msgspec.structs.replace(place, labels=msgspec.structs.replace(place.labels, committed=found.join.offset))


def replaced(kind: str, name: str) -> TopicReplaced:
    """Say that a topic is another than it was."""
    return TopicReplaced(
        f"the {kind} topic {name} was deleted and made again: it is another topic now, and what was learned is of the "
        "old one",
        hint="begin the new topic's history: `headrace run --on-state-loss fresh`; to keep the old model, use another "
        "`name`",
    )


def gone(kind: str, name: str) -> TopicReplaced:
    """Say that a topic is not there any more."""
    return TopicReplaced(
        f"the {kind} topic {name} was deleted",
        hint=f"if it was by mistake, restore {name} from a copy under another name; to begin anew with an empty one: "
        "`headrace run --on-state-loss fresh`",
    )


def taken(partition: int, topic: Topic, saved: SavedSnapshot) -> NameTaken:
    """Say that the name is another project's."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(saved.created_ms / 1_000))
    return NameTaken(
        f"the name is taken: partition {partition} of the store holds a model that was taught from the topic "
        f"{saved.topic} (saved {since}), and this project's features topic is {topic.name}",
        hint="choose another `name` for this project; if the topic was renamed, delete the old one and begin anew: "
        "`headrace run --on-state-loss fresh`",
    )


def check(facts: PartitionFacts) -> None:
    """Raise StateError where what is known of a partition does not fit together."""
    saved, topic = facts.saved, facts.topic
    check_name(facts)
    _check_topics(facts)
    _check_end(facts.partition, topic.name, facts.place)
    if facts.place.labels is not None and topic.labels is not None:
        _check_end(facts.partition, topic.labels.name, facts.place.labels)
    if saved is not None:
        _check_skipped(facts, saved)


def check_start(facts: PartitionFacts) -> None:
    """Raise StateError where the log begins past what the group has committed."""
    for name, place in ((facts.topic.name, facts.place), (_labels_name(facts.topic), facts.place.labels)):
        if place is not None and place.committed is not None and place.low > place.committed:
            raise StateError(
                f"partition {facts.partition}: the log of {name} begins at {place.low}, past the committed offset "
                f"{place.committed}: {place.low - place.committed} records are gone",
                hint=f"raise the retention of {name}; to go on without them: `headrace run --on-state-loss fresh`",
            )


def check_log(topic: str, partition: int, *, low: int, offset: int) -> None:
    """Raise StateError where the log of the features or labels begins past the offset of a snapshot."""
    if low > offset:
        raise StateError(
            f"partition {partition}: the log of {topic} begins at {low}, past {offset} where the model stands; "
            f"{low - offset} records are gone",
            hint=f"raise the topic's retention; to go on without them, {CHOICES}",
        )


def faults(
    topic: Topic | None, places: Mapping[int, PartitionOffsets], notes: Mapping[int, Mapping[str, Any]]
) -> Iterator[StateError]:
    """Yield what does not fit together, by partition, and once what is said of the whole topic.

    `places` are as `by_mark` has them, `notes` the store's of the newest snapshots.
    """
    reported: set[str] = set()
    if topic is None:
        return
    for partition, place in places.items():
        facts = PartitionFacts(partition, topic, place, saved_of(notes.get(partition)))
        try:
            check(facts)
            check_start(facts)
        except StateError as error:
            if str(error) not in reported:
                reported.add(str(error))
                yield error


def _labels_name(topic: Topic) -> str:
    return "" if topic.labels is None else topic.labels.name


def check_name(facts: PartitionFacts) -> None:
    """Raise NameTaken where the store's newest snapshot is another project's."""
    saved, last = facts.saved, facts.mark
    # A mark without a snapshot: the newest one is of what was left behind, until the next save.
    if saved is not None and saved.topic != facts.topic.name and (last is None or last.snapshot > last.start):
        raise taken(facts.partition, facts.topic, saved)


def left_out(facts: PartitionFacts) -> int:
    """Count the records before an offset that another tool has set, where nothing is known of a history before it."""
    place = facts.place
    if facts.mark is not None or place.committed is None:
        return 0
    return max(0, place.committed - place.low)


def beginning(facts: PartitionFacts) -> tuple[int, int]:
    """Return where a history without a past begins in both logs: where the group stands, and within the log.

    Where that was in another topic, it begins with the log. Without a labels topic its offset is -1.
    """
    last, topic, place = facts.mark, facts.topic, facts.place
    is_other = last is not None and _differ(last.topic, topic.id)
    features = _within(place, is_other=is_other)
    if place.labels is None or topic.labels is None:
        return features, -1
    join = None if last is None else last.join
    return features, _within(place.labels, is_other=join is not None and _differ(join.topic, topic.labels.id))


def _within(place: PartitionOffsets, *, is_other: bool) -> int:
    if is_other or place.committed is None:
        return place.low
    return min(max(place.committed, place.low), place.high)


def _check_topics(facts: PartitionFacts) -> None:
    last, topic, saved = facts.mark, facts.topic, facts.saved
    if last is not None:
        if _differ(last.topic, topic.id):
            raise replaced("features", topic.name)
        if last.join is not None and topic.labels is not None and _differ(last.join.topic, topic.labels.id):
            raise replaced("labels", topic.labels.name)
    elif saved is not None and _differ(saved.topic_id, topic.id):
        # With the topic went the offsets that the group had committed in it.
        raise replaced("features", topic.name)


def _differ(told: str, found: str) -> bool:
    return bool(told and found) and told != found


def _check_end(partition: int, topic: str, place: PartitionOffsets) -> None:
    committed = place.committed
    if committed is not None and committed > place.high:
        raise StateError(
            f"partition {partition}: the group has committed offset {committed} of {topic}, and the log ends at "
            f"{place.high}",
            hint="set the offset to where the stream is to go on (kafka-consumer-groups --reset-offsets); to begin a "
            "new history at the log's end: `headrace run --on-state-loss fresh`",
        )


def _check_skipped(facts: PartitionFacts, saved: SavedSnapshot) -> None:
    """See that an offset which carries no mark of this pipeline leaves no record out that nobody has handled."""
    place, partition = facts.place, facts.partition
    if place.committed is None:
        raise StateError(
            f"partition {partition} has a model in the store, which stands at offset {saved.offset}, but the group has "
            "no committed offset (the group was deleted, or its offsets have expired)",
            hint=f"set the offset to {saved.offset} (kafka-consumer-groups --reset-offsets), or {FRESH}",
        )
    if facts.mark is not None:
        return
    if place.committed > saved.offset:
        raise StateError(
            f"partition {partition}: another tool has set the group's offset of {facts.topic.name} to "
            f"{place.committed}: it carries no mark of this pipeline, whose newest snapshot stands at {saved.offset}; "
            f"whether the {place.committed - saved.offset} records between have predictions is not known",
            hint=_SKIPS,
        )
    labels = place.labels
    if labels is not None and facts.topic.labels is not None and labels.committed is not None:
        behind = labels.committed - saved.labels_offset
        if saved.labels_offset >= 0 and behind > 0:
            raise StateError(
                f"partition {partition}: another tool has set the group's offset of {facts.topic.labels.name} to "
                f"{labels.committed}: it carries no mark of this pipeline, whose newest snapshot stands at "
                f"{saved.labels_offset}; whether the {behind} labels between were learned is not known",
                hint=_SKIPS,
            )
