"""The cases: each runs a peer, or Headrace with some settings, over a feed, and is compared with another case.

`plain` is Headrace with one model a partition and the labels in the records. The cost of growth and of optional
features is compared with it, or with the smallest case of the same part.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from lineup import HEADRACE, TITLES
from shapes import SHAPES
from stream import Feed

PARTS = ("wide", "partitions", "bad", "workers", "labels", "keys", "mixing", "formats")
"""The parts that increase a size or turn on a feature."""
PLAIN = "plain"
WIDTHS = (10, 50, 200)
KEY_COUNTS = (10, 1_000, 100_000, 1_000_000)
PARTITION_COUNTS = (1, 4, 16, 64)
BAD_SHARES = (0, 1, 50, 100)

_KEYED = {"model.scope": "key"}
# These cases have this many times the records of the others. So most records of a hundred thousand keys are not the
# first of their key, and each of many partitions has enough records for a batch.
LONGER_TIMES = 4
# With this number of records the start and the end of a run have little weight.
_WIDE_MIN = 40_000
_GLOBAL = {"model.scope": "global"}
# Slow peers run over a part of the records: one in this number.
_SLOW = {"faust": 10}


@dataclass(frozen=True, slots=True)
class Case:
    """One run: a program over a feed, or over its first `count` records, and the case `beside` to compare with.

    `race` is the case of another program over the same feed, to report how many times as fast this one is.
    """

    name: str
    title: str
    feed: Feed
    part: str = ""
    program: str = HEADRACE
    count: int = 0
    beside: str = ""
    race: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    workers: int = 1

    @property
    def records(self) -> int:
        """The number of records to predict."""
        return self.count or self.feed.count


def peers(programs: Collection[str], feed: Feed) -> list[Case]:
    """Return a case for each of the programs, all over the same feed."""
    return [
        Case(
            program,
            TITLES[program],
            feed,
            part="peers",
            program=program,
            count=feed.count // _SLOW[program] if program in _SLOW else 0,
            settings={"delivery.guarantee": "at-least-once"} if program == f"{HEADRACE}-alo" else {},
        )
        for program in programs
        # It reads another topic, in the part of the formats.
        if program != "quix-avro"
    ]


def growth(
    parts: Collection[str], *, count: int, million_count: int, partitions: int, registry: str, programs: Collection[str]
) -> list[Case]:
    """Return the cases of the chosen parts, each after the case that it is compared with.

    `registry` is the URL of a schema registry for the formats, and `programs` are those that are installed.
    """
    feed = Feed("bench.plain", _even(count, partitions), partitions)
    found = []
    if set(parts) - {"partitions", "bad", "formats"}:
        race = f"loop.{feed.width}" if "wide" in parts else ""
        found.append(Case(PLAIN, f"plain: {feed.width} features, scope partition", feed, beside=PLAIN, race=race))
    if "wide" in parts:
        found += _wide(feed)
    if "partitions" in parts:
        found += _partitioned(count)
    if "bad" in parts:
        found += _spoiled(feed)
    if "workers" in parts or "mixing" in parts:
        found.append(Case("workers.2", "2 workers", feed, part="workers", beside=PLAIN, workers=2))
    if "labels" in parts:
        late = Feed("bench.unlabelled", feed.count, partitions, labels="bench.labels")
        settings = {"topics.labels": late.labels}
        title = "labels in a topic of their own"
        found.append(Case("labels", title, late, part="labels", beside=PLAIN, settings=settings))
    if "keys" in parts:
        found += _keyed(feed, million_count=_even(million_count, partitions))
    if "formats" in parts:
        found += _shaped(feed, registry, has_quix="quix-avro" in programs)
    if "mixing" in parts:
        found += [
            Case("global", "mixing, 1 worker", feed, part="mixing", beside=PLAIN, settings=_GLOBAL),
            Case("global2", "mixing, 2 workers", feed, "mixing", beside="workers.2", settings=_GLOBAL, workers=2),
        ]
    return found


def _even(count: int, partitions: int) -> int:
    """Return a count that is a multiple of the partitions, so that the end of each partition is known in advance."""
    return count - count % partitions


def _wide(feed: Feed) -> list[Case]:
    found = []
    for width in WIDTHS:
        # Wide records are long: fewer of them take the same time.
        count = _even(max(_WIDE_MIN, feed.count * WIDTHS[0] // width), feed.partitions)
        wide = feed if width == feed.width else Feed(f"bench.wide.{width}", count, feed.partitions, width=width)
        name, title = f"loop.{width}", f"{TITLES['loop']}, {width} features"
        found.append(Case(name, title, wide, "wide", "loop", beside=f"loop.{WIDTHS[0]}"))
        if width != feed.width:
            found.append(Case(f"wide.{width}", f"{width} features", wide, "wide", beside=PLAIN, race=name))
    return found


def _partitioned(count: int) -> list[Case]:
    first = f"partitions.{PARTITION_COUNTS[0]}"
    return [
        Case(
            name := f"partitions.{partitions}",
            f"{partitions} partition{'s'[: partitions > 1]}",
            Feed(f"bench.{name}", _even(LONGER_TIMES * count, partitions), partitions),
            part="partitions",
            beside=first,
        )
        for partitions in PARTITION_COUNTS
    ]


def _spoiled(feed: Feed) -> list[Case]:
    return [
        Case(
            name := f"bad.{share}",
            f"{share} % bad records",
            Feed(f"bench.{name}", feed.count, feed.partitions, bad=share),
            part="bad",
            beside=f"bad.{BAD_SHARES[0]}",
            settings={"dlq.flood_guard": False},
        )
        for share in BAD_SHARES
    ]


def _keyed(feed: Feed, *, million_count: int) -> list[Case]:
    found = []
    for keys in KEY_COUNTS:
        count = million_count if keys == KEY_COUNTS[-1] else LONGER_TIMES * feed.count
        fed = Feed(f"bench.keys.{keys}", count, feed.partitions, keys=keys)
        beside = PLAIN if keys == KEY_COUNTS[0] else f"keys.{KEY_COUNTS[0]}"
        found.append(Case(f"keys.{keys}", f"a model a key, of {keys:,}", fed, "keys", beside=beside, settings=_KEYED))
    return found


def _shaped(feed: Feed, registry: str, *, has_quix: bool) -> list[Case]:
    """Return a case for each shape of records, all with the same events, and Quix Streams with those in Avro."""
    first, avro, quix = f"formats.{next(iter(SHAPES))}", "formats.avro", "formats.quix-avro"
    found = []
    for word, shape in SHAPES.items():
        name = f"formats.{word}"
        topic = f"bench.{name}"
        made = shape.registered(registry, topic)
        fed = Feed(topic, feed.count, feed.partitions, write=made.rows, answers=first)
        race = quix if has_quix and name == avro else ""
        if race:
            settings = {"registry.url": registry}
            found.append(Case(quix, TITLES["quix-avro"], fed, "formats", "quix-avro", beside=first, settings=settings))
        found.append(Case(name, made.title, fed, "formats", beside=first, race=race, settings=made.settings))
    return found
