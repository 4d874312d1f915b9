"""Records near the limits of their topics: each has one outcome, nothing stops, and the model learns what it would."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from harness import Project, wait_until

from headrace.consumers.topics import Topics
from headrace.producers.record_size import record_bytes

Make = Callable[..., Project]
Sent = tuple[bytes | None, bytes | None, Any]

LIMIT = 2_000
GOOD = b'{"id": "g", "features": {"a": 1.5}, "label": true}'
LONG_TRACE = [("tracestate", b"x" * 3_000), ("mine", b"1")]
# What of a record goes into its dead letter, and how it is refused; None for a prediction.
CASES: list[tuple[Sent, tuple[str, list[str]] | None]] = [
    ((b"k", GOOD, None), None),
    ((b"k" * 3_000, GOOD, None), ("too_large", ["key"])),
    ((b"k", GOOD, LONG_TRACE), ("too_large", ["headers"])),
    ((b"k", b"{" * 3_000, None), ("not_json", ["value"])),
    ((b"k" * 1_000_000, b"{", None), ("not_json", ["key"])),
    ((b"k" * 1_500, b"{" * 900, LONG_TRACE), ("not_json", ["headers", "value"])),
    ((b"k", b"{", [("h", None)] * 10_000), ("not_json", ["headers"])),
    ((b"k" * 1_800, GOOD, None), ("too_large", ["key"])),
    *[((b"k%d" % number, GOOD, [("traceparent", b"00-1")]), None) for number in range(60)],
]


@pytest.fixture
def tight(project: Make) -> Make:
    """Make a project whose output topics take little."""

    def make(**options: Any) -> Project:
        made = project(partitions=1, **options)
        for topic in (made.predictions, made.dead_letters):
            Topics(made.client).create(topic, 1, {"max.message.bytes": str(LIMIT)})
        return made

    return make


def _produce(p: Project, records: list[Sent]) -> None:
    producer = Producer({**p.client, "enable.idempotence": True, "message.max.bytes": 20_000_000})
    for key, value, headers in records:
        producer.produce(p.features, value, key, partition=0, headers=headers)
    assert producer.flush(30) == 0


def _source(message: Any) -> int:
    return json.loads(message.value())["source"]["offset"]


def _check(p: Project, first: int = 0) -> None:
    """Hold what came out against what was sent, once or again from an offset on."""
    predictions, letters = p.read(p.predictions)[0], p.read(p.dead_letters)[0]
    good = [first + place for place, (_, refused) in enumerate(CASES) if refused is None]
    assert [offset for offset in map(_source, predictions) if offset >= first] == good
    told = {int(headers["__dlq.errors.offset"]): (letter, headers) for letter, headers in map(_headers, letters)}
    for place, ((key, value, headers), refused) in enumerate(CASES):
        assert (place + first in told) == (refused is not None), "one outcome"
        if refused is None:
            continue
        letter, found = told[place + first]
        code, omitted = refused
        assert found["dlq.code"] == code.encode()
        for part, whole, kept in (("key", key, letter.key()), ("value", value, letter.value())):
            assert kept == (None if part in omitted else whole), (place, part)
            assert found.get(f"dlq.{part}.omitted") == (str(len(whole)).encode() if part in omitted else None)
        own = [header for header in letter.headers() if not header[0].startswith(("dlq.", "__dlq."))]
        assert own == ([] if "headers" in omitted else headers or [])
        assert ("dlq.headers.omitted" in found) == ("headers" in omitted)
        assert found.get("dlq.learned") == (b"true" if code == "too_large" else None)
        assert record_bytes(letter.key(), letter.value(), letter.headers()) <= LIMIT
    assert len(letters) == len(told), "each once"


def _headers(letter: Any) -> tuple[Any, dict[str, Any]]:
    return letter, dict(letter.headers())


def _forget(p: Project) -> None:
    """Let the store lose all that it has of a pipeline."""
    store = redis.Redis.from_url(p.stack.addresses.redis)
    keys = list(store.scan_iter(f"*{p.name}*", count=1_000))
    assert keys
    store.delete(*keys)
    store.close()


@pytest.mark.parametrize(
    "settings",
    [{}, {"HEADRACE__DELIVERY__GUARANTEE": "at-least-once", "HEADRACE__MODEL__SCOPE": "key"}],
    ids=["exactly once", "at least once by key"],
)
def test_what_is_too_large_for_its_topic_has_one_outcome_and_is_learned_as_any_other(
    tight: Make, settings: dict[str, str]
) -> None:
    p = tight(settings={**settings, "HEADRACE__DLQ__FLOOD_GUARD": "false"})
    _produce(p, [record for record, _ in CASES])
    p.run_to_end()
    _check(p)
    refused = sum(refused is not None for _, refused in CASES)
    learned = sum(record[1] == GOOD for record, _ in CASES)
    wanted = {
        "records": len(CASES),
        "predictions": len(CASES) - refused,
        "dead_letters": refused,
        "skipped": 0,
        "learned": learned,
    }
    assert p.status()["counts"] == wanted
    # By another limit the history would be another, if it hung on limits.
    _alter(p, p.predictions, 1_000_000)
    _forget(p)
    _produce(p, [CASES[0][0]])
    p.run_to_end()
    more = {"records": 1, "predictions": 1, "dead_letters": 0, "skipped": 0, "learned": 1}
    assert p.status()["counts"] == {name: count + more[name] for name, count in wanted.items()}
    assert len(p.read(p.dead_letters)[0]) == refused


def _alter(p: Project, topic: str, limit: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(limit), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient(p.client)
    admin.incremental_alter_configs([resource])[resource].result(10)
    wait_until(lambda: Topics(p.client).limits(topic)[topic] == limit, what="the limit to be told")


@contextlib.contextmanager
def _running(p: Project) -> Iterator[Any]:
    with p.running() as run:
        yield run
        assert run.stop() == 0, run.log()


@pytest.mark.parametrize("guarantee", ["exactly-once", "at-least-once"])
def test_a_limit_that_is_lowered_while_it_runs_stops_nothing(project: Make, guarantee: str) -> None:
    p = project(
        partitions=1, settings={"HEADRACE__DELIVERY__GUARANTEE": guarantee, "HEADRACE__DLQ__FLOOD_GUARD": "false"}
    )
    with _running(p) as run:
        _produce(p, [(b"k", GOOD, None)])
        wait_until(lambda: p.committed()[0][0] > 0, what="the first record to be committed")
        _alter(p, p.predictions, LIMIT)
        _alter(p, p.dead_letters, LIMIT)
        _produce(p, [record for record, _ in CASES])
        wait_until(lambda: p.committed()[0][0] > len(CASES), what="all to be committed", timeout_s=60)
        assert run.process.poll() is None
    counts = p.status()["counts"]
    assert counts["records"] == counts["predictions"] + counts["dead_letters"] == len(CASES) + 1
    letters = p.read(p.dead_letters)[0]
    if guarantee == "exactly-once":
        _check(p, first=1)
        assert counts["dead_letters"] == len(letters)


def test_a_dead_letter_topic_that_takes_none_is_said_at_the_start(project: Make) -> None:
    p = project(partitions=1)
    Topics(p.client).create(p.dead_letters, 1, {"max.message.bytes": "200"})
    with p.running(until_end=True) as run:
        assert run.process.wait(30) == 1, run.log()
        assert f"{p.dead_letters} takes 200 bytes at most" in run.log()
        assert f"raise max.message.bytes of {p.dead_letters}" in run.log()
