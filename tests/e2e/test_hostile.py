"""The whole corpus through the real pipeline: each hostile record is dead-lettered once, no good one is touched."""

import json
from collections.abc import Callable
from typing import Any

from harness import Project, logistic, values
from hostile import refused

Make = Callable[..., Project]

HEADERS = {
    "__dlq.errors.topic",
    "__dlq.errors.partition",
    "__dlq.errors.offset",
    "__dlq.errors.group",
    "__dlq.errors.delivery.count",
    "__dlq.errors.message",
    "dlq.status",
    "dlq.code",
    "dlq.field",
    "dlq.stage",
    "dlq.timestamp",
    "dlq.replay.count",
}


def test_every_hostile_record_is_dead_lettered_once_and_no_good_one_is_touched(project: Make) -> None:
    cases = refused("binary")
    assert len(cases) >= 150
    p = project(partitions=2, settings={"HEADRACE__DLQ__FLOOD_GUARD": "false"})
    good = iter(values(len(cases)))
    hostile: dict[int, dict[int, Any]] = {0: {}, 1: {}}
    sent: dict[int, list[bytes | None]] = {0: [], 1: []}
    for index, case in enumerate(cases):
        partition = index % 2
        sent[partition].append(next(good))
        hostile[partition][len(sent[partition])] = case
        sent[partition].append(case.value)
    for partition, records in sent.items():
        p.produce(records, partition=partition)
    p.run_to_end()
    for partition, expected in hostile.items():
        _check_letters(p.read(p.dead_letters)[partition], expected, partition=partition)
        model = logistic()
        answers = [json.loads(message.value()) for message in p.read(p.predictions)[partition]]
        assert [a["source"]["offset"] for a in answers] == list(range(0, len(sent[partition]), 2))
        for answer in answers:
            event = json.loads(sent[partition][answer["source"]["offset"]] or b"")
            assert answer["proba"]["true"] == model.predict_proba_one(event["features"])[True]
            model.learn_one(event["features"], event["label"])


def _check_letters(letters: list[Any], expected: dict[int, Any], *, partition: int) -> None:
    offsets = [int(dict(letter.headers())["__dlq.errors.offset"]) for letter in letters]
    assert offsets == list(expected), "each once, in order"
    for letter, (offset, case) in zip(letters, expected.items(), strict=True):
        headers = {name: value.decode() for name, value in letter.headers()}
        assert set(headers) == HEADERS, case.name
        assert letter.value() == case.value, case.name
        assert letter.partition() == partition
        found = (headers["dlq.code"], headers["dlq.field"], headers["dlq.stage"], headers["dlq.status"])
        assert found == (case.code, case.field, case.stage, "400"), (case.name, offset)
        assert headers["__dlq.errors.message"], case.name
