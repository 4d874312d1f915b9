"""The whole corpus through the real pipeline: each hostile record is dead-lettered once, no good one is touched."""

import json
import math
import random
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import Producer
from harness import LOGISTIC, Project
from hostile import TASKS, Refused, Taken, Task, refused, taken
from oracle import logistic
from river import linear_model, preprocessing, tree

Make = Callable[..., Project]
Headers = list[tuple[str, bytes | None]]

ADDED = [
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
]
SOURCES: dict[Task, str] = {
    "binary": LOGISTIC,
    "multiclass": "from river import tree\n\ndef build():\n    return tree.HoeffdingTreeClassifier(grace_period=20)\n",
    "regression": LOGISTIC.replace("LogisticRegression", "LinearRegression"),
}
MODELS: dict[Task, Callable[[], Any]] = {
    "binary": logistic,
    "multiclass": lambda: tree.HoeffdingTreeClassifier(grace_period=20),
    "regression": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
}
KEYS = [b"k1", None, b"", b"\xff\x00", "ключ".encode()]
TRACE: Headers = [("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
HEADERS: list[Headers | None] = [
    None,
    [("source", b"shop"), ("source", b"till"), ("empty", b""), ("none", None), ("latin", b"\xe9")],
    [*TRACE, ("a", b"1")],
]


@dataclass(frozen=True)
class Sent:
    """One record as it was produced, and what is expected of it: a reason, or what the model learns."""

    key: bytes | None
    value: bytes | None
    headers: Headers | None
    reason: Refused | None
    features: dict[str, Any]
    label: Any


def _stream(task: Task, rng: random.Random) -> list[Sent]:
    """Put good and odd records between all the hostile ones."""
    cases: list[Refused | Taken | None] = [case for hostile in refused(task) for case in (hostile, None)]
    odd = [case for case in taken(task) if all(_is_tame(value) for value in case.features.values())]
    assert len(odd) > 20
    for case in odd:
        cases.insert(rng.randrange(len(cases)), case)
    return [_sent(task, case, rng) for case in cases]


def _is_tame(value: Any) -> bool:
    # What a sound model can learn next to the others, and be of use afterwards.
    return isinstance(value, int | float) and abs(value) < 1e6


def _sent(task: Task, case: Refused | Taken | None, rng: random.Random) -> Sent:
    key, headers = rng.choice(KEYS), rng.choice(HEADERS)
    if isinstance(case, Refused):
        return Sent(key, case.value, headers, case, {}, None)
    if isinstance(case, Taken):
        return Sent(key, case.value, headers, None, case.features, case.label)
    features = {"a": rng.gauss(0, 1), "b": rng.gauss(0, 1)}
    amount = 2 * features["a"] - features["b"]
    label = {"binary": amount > 0, "multiclass": ["low", "high"][amount > 0], "regression": amount}[task]
    value = json.dumps({"id": f"r-{rng.random()}", "features": features, "label": label}).encode()
    return Sent(key, value, headers, None, features, label)


def _produce(p: Project, records: Sequence[Sent], *, partition: int, **settings: Any) -> None:
    producer = Producer({**p.client, "enable.idempotence": True, "message.max.bytes": 20_000_000, **settings})
    for record in records:
        producer.produce(p.features, record.value, record.key, partition=partition, headers=record.headers)
    assert producer.flush(30) == 0


@pytest.mark.parametrize("task", TASKS)
def test_every_hostile_record_is_dead_lettered_once_and_no_good_one_is_touched(project: Make, task: Task) -> None:
    p = project(partitions=2, model=SOURCES[task], settings={"HEADRACE__DLQ__FLOOD_GUARD": "false"})
    stream = _stream(task, random.Random(17))
    parts = {0: stream[0::3] + stream[1::3], 1: stream[2::3]}
    for partition, records in parts.items():
        _produce(p, records, partition=partition)
    p.run_to_end()
    letters, predictions = p.read(p.dead_letters), p.read(p.predictions)
    for partition, records in parts.items():
        _check_letters(p, letters[partition], records, partition=partition)
        _check_predictions(predictions[partition], records, MODELS[task]())


def _check_letters(p: Project, letters: list[Any], records: Sequence[Sent], *, partition: int) -> None:
    expected = [(offset, record) for offset, record in enumerate(records) if record.reason is not None]
    offsets = [int(dict(letter.headers())["__dlq.errors.offset"]) for letter in letters]
    assert offsets == [offset for offset, _ in expected], "each once, in order"
    for letter, (offset, record) in zip(letters, expected, strict=True):
        case = record.reason
        assert case is not None
        assert (letter.key(), letter.value()) == (record.key, record.value), case.name
        own = record.headers or []
        assert letter.headers()[: len(own)] == own, case.name
        added = letter.headers()[len(own) :]
        assert [name for name, _ in added] == ADDED, case.name
        told = {name: value.decode() for name, value in added}
        assert (told["dlq.code"], told["dlq.field"], told["dlq.stage"]) == (case.code, case.field, case.stage), (
            case.name
        )
        assert (told["dlq.status"], told["dlq.replay.count"], told["__dlq.errors.group"]) == ("400", "0", p.name)
        place = (told["__dlq.errors.topic"], told["__dlq.errors.partition"], told["__dlq.errors.offset"])
        assert place == (p.features, str(partition), str(offset))
        assert 0 < len(added[5][1]) <= 1_024, case.name


def _check_predictions(messages: list[Any], records: Sequence[Sent], model: Any) -> None:
    """Hold them against plain River, test-then-train, on the good records alone."""
    expected = [(offset, record) for offset, record in enumerate(records) if record.reason is None]
    answers = [json.loads(message.value()) for message in messages]
    assert [answer["source"]["offset"] for answer in answers] == [offset for offset, _ in expected]
    for message, answer, (offset, record) in zip(messages, answers, expected, strict=True):
        _compare(answer, model, record.features)
        assert message.key() == record.key
        assert message.headers() == (TRACE if record.headers and record.headers[:1] == TRACE else None), offset
        if record.label is not None:
            model.learn_one(record.features, record.label)


def _compare(answer: dict[str, Any], model: Any, features: dict[str, Any]) -> None:
    wanted = model.predict_one(features)
    if isinstance(wanted, float):
        assert answer["prediction"] == pytest.approx(wanted, rel=1e-12, abs=1e-12)
        assert math.isfinite(wanted), "the odd records are tame enough for the model to stay of use"
        assert "proba" not in answer
        return
    assert answer["prediction"] == wanted
    proba = model.predict_proba_one(features)
    named = {str(label).lower() if isinstance(label, bool) else label: p for label, p in proba.items()}
    assert answer["proba"] == pytest.approx(named, rel=1e-12, abs=1e-12)


def test_the_largest_records_that_a_broker_takes_by_default_are_dead_letters_like_any_other(project: Make) -> None:
    """A client takes less than a broker by default, and a broker weighs what is compressed."""
    p = project(partitions=2)
    rng = random.Random(5)
    parts = {}
    for partition, value in enumerate((b"\xff" * 1_048_000, b"x" * 5_000_000)):
        large = Sent(None, value, [("a", b"1")], Refused("large", value, "too_large"), {}, None)
        parts[partition] = [_sent("binary", None, rng), large, _sent("binary", None, rng)]
        _produce(p, parts[partition], partition=partition, **{"compression.type": ["none", "gzip"][partition]})
    p.run_to_end(timeout_s=30)
    letters, predictions = p.read(p.dead_letters), p.read(p.predictions)
    for partition, records in parts.items():
        _check_letters(p, letters[partition], records, partition=partition)
        _check_predictions(predictions[partition], records, logistic())


def test_a_header_whose_name_is_no_text_does_not_stop_the_stream(project: Make) -> None:
    """Clients in other languages write any bytes as a name; this one's library can't even read them."""
    p = project(partitions=1)
    rng = random.Random(5)
    records = [_sent("binary", None, rng) for _ in range(3)]
    bad = Sent(b"k", b"{", None, Refused("cut short", b"{", "not_json"), {}, None)
    _produce(p, records[:1], partition=0)
    for record in (records[1], bad):
        _produce_raw(p, record.value or b"", [(b"caf\xe9", b"1")])
    _produce(p, records[2:], partition=0)
    p.run_to_end(timeout_s=30)
    answers = [json.loads(message.value()) for message in p.read(p.predictions)[0]]
    assert [answer["source"]["offset"] for answer in answers] == [0, 1, 3]
    [letter] = p.read(p.dead_letters)[0]
    assert letter.value() == b"{"
    assert dict(letter.headers())["dlq.code"] == b"not_json"


def _produce_raw(p: Project, value: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Produce one record by the bytes of the protocol, since no client of Python's writes such a header."""
    told = _varint(len(headers)) + b"".join(_sized(name) + _sized(text) for name, text in headers)
    body = b"\x00" + _varint(0) + _varint(0) + _varint(-1) + _sized(value) + told
    now_ms = time.time_ns() // 1_000_000
    sealed = struct.pack(">hiqqqhii", 0, 0, now_ms, now_ms, -1, -1, -1, 1) + _sized(body)
    rest = struct.pack(">ibI", -1, 2, _crc32c(sealed)) + sealed
    batch = struct.pack(">qi", 0, len(rest)) + rest
    topic = p.features.encode()
    request = struct.pack(">hhihhhii", 0, 3, 1, -1, -1, -1, 10_000, 1)
    request += struct.pack(">h", len(topic)) + topic + struct.pack(">iii", 1, 0, len(batch)) + batch
    host, _, port = p.stack.addresses.kafka.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        reply = connection.recv(4_096)
    [error] = struct.unpack_from(">h", reply, 4 + 4 + 4 + 2 + len(topic) + 4 + 4)
    assert error == 0, "the broker took it"


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    left, found = (number << 1) ^ (number >> 63), bytearray()
    while left > 0x7F:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*found, left])


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
