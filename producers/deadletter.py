"""The headers of dead letters: a refused record keeps its key, value and headers, and gets the reason as headers.

Headrace writes Kafka's own names for share groups (KIP-1191) and `dlq.*`. It also reads the headers of Kafka Connect
(KIP-298), Kafka Streams (KIP-1034) and Spring.
"""

import functools
from collections.abc import Mapping
from typing import Literal

import msgspec

from headrace.producers.record_size import MessageHeaders

Dialect = Literal["headrace", "connect", "streams", "spring", "none"]

TOPIC = "__dlq.errors.topic"
PARTITION = "__dlq.errors.partition"
OFFSET = "__dlq.errors.offset"
GROUP = "__dlq.errors.group"
DELIVERY_COUNT = "__dlq.errors.delivery.count"
MESSAGE = "__dlq.errors.message"
STATUS = "dlq.status"
CODE = "dlq.code"
FIELD = "dlq.field"
STAGE = "dlq.stage"
TIMESTAMP = "dlq.timestamp"
REPLAY_COUNT = "dlq.replay.count"
LEARNED = "dlq.learned"
"""`true` if the model had learned the record before a sink refused it: a replay must not teach it again."""
REPLAY_PROOF = "dlq.replay.proof"
"""The signature of a replayed record: without it the other replay headers do not count (`replay_proof.py`)."""
KEY_OMITTED = "dlq.key.omitted"
HEADERS_OMITTED = "dlq.headers.omitted"
VALUE_OMITTED = "dlq.value.omitted"
"""The size in bytes of the record's key, headers or value, if the dead letter had no room for it."""

_OMITTED = {"key": KEY_OMITTED, "headers": HEADERS_OMITTED, "value": VALUE_OMITTED}
_OWN = frozenset(
    {TOPIC, PARTITION, OFFSET, GROUP, DELIVERY_COUNT, MESSAGE, STATUS, CODE, FIELD, STAGE, TIMESTAMP}
    | {REPLAY_COUNT, REPLAY_PROOF, LEARNED, *_OMITTED.values()}
)
_FOREIGN = ("__connect.errors.", "__streams.errors.", "kafka_dlt-")
_MESSAGE_BYTES_MAX = 1_024
# UTF-8 has at most four bytes a character, so a text of this length needs no cut.
_UNCUT_CHARACTERS_MAX = _MESSAGE_BYTES_MAX // 4
_CACHED_MAX = 4_096


_DELIVERED_ONCE = (DELIVERY_COUNT, b"1")
_MALFORMED = (STATUS, b"400")
_NEVER_REPLAYED = (REPLAY_COUNT, b"0")
# A longer number is not an offset, a time or a count of Kafka's.
_DIGITS_MAX = 18


class Reason(msgspec.Struct, frozen=True):
    """The origin of a dead letter and the reason, read from the headers of any dialect.

    Without such headers `partition` and `offset` are -1 and `timestamp_ms` is None. `omitted` has the size in bytes of
    each part of the record that the dead letter had no room for: `key`, `headers` or `value`.
    """

    dialect: Dialect
    topic: str = ""
    partition: int = -1
    offset: int = -1
    group: str = ""
    code: str = ""
    stage: str = ""
    field: str = ""
    message: str = ""
    timestamp_ms: int | None = None
    replay_count: int = 0
    omitted: Mapping[str, int] = {}


def add_reason(
    headers: MessageHeaders | None,
    *,
    topic: str,
    partition: int,
    offset: int,
    group: str,
    code: str,
    stage: str,
    field: str,
    message: str,
    timestamp_ms: int,
    replays: int = 0,
    learned: bool = False,
    omitted: Mapping[str, int] | None = None,
) -> list[tuple[str, bytes | None]]:
    """Return a refused record's headers in their order, followed by the headers that give the reason.

    They replace those of an earlier dead letter. `omitted` has the sizes of the parts that were left out.
    """
    found = [header for header in headers or () if header[0] not in _OWN]
    # Bad records may come in floods: the headers that many of them share are encoded once.
    in_topic, in_partition, for_group = _origin_headers(topic, partition, group)
    with_code, of_field, at_stage = _code_headers(code, field, stage)
    found += (
        in_topic,
        in_partition,
        (OFFSET, b"%d" % offset),
        for_group,
        _DELIVERED_ONCE,
        (MESSAGE, _cut(message)),
        _MALFORMED,
        with_code,
        of_field,
        at_stage,
        (TIMESTAMP, b"%d" % timestamp_ms),
        (REPLAY_COUNT, b"%d" % replays) if replays else _NEVER_REPLAYED,
    )
    if learned:
        found.append((LEARNED, b"true"))
    if omitted:
        found += [(_OMITTED[part], b"%d" % size) for part, size in omitted.items()]
    return found


def strip(headers: MessageHeaders | None) -> list[tuple[str, bytes | None]]:
    """Return the record's own headers, without those that any dialect adds to a dead letter."""
    return [h for h in headers or () if h[0] not in _OWN and not h[0].startswith(_FOREIGN)]


def replay_count(headers: MessageHeaders | None) -> int:
    """Return the number of replays from the headers; 0 when it is missing or invalid."""
    return _integer(dict(headers or ()).get(REPLAY_COUNT), default=0)


def is_learned(headers: MessageHeaders | None) -> bool:
    """Tell whether the model learned the record of a dead letter before a sink refused it."""
    return dict(headers or ()).get(LEARNED) == b"true"


def read(headers: MessageHeaders | None) -> Reason:
    """Read the reason from a dead letter's headers, of any dialect."""
    # A header that was added later comes later: of two headers with one name, or of two dialects, take the last.
    named = dict(headers or ())
    dialects = [_DIALECTS[name] for name, _ in headers or () if name in _DIALECTS]
    return dialects[-1](named) if dialects else Reason("none")


def _read_own(named: Mapping[str, bytes | None]) -> Reason:
    return Reason(
        "headrace",
        topic=_text(named.get(TOPIC)),
        partition=_integer(named.get(PARTITION), default=-1),
        offset=_integer(named.get(OFFSET), default=-1),
        group=_text(named.get(GROUP)),
        code=_text(named.get(CODE)),
        stage=_text(named.get(STAGE)),
        field=_text(named.get(FIELD)),
        message=_text(named.get(MESSAGE)),
        timestamp_ms=_known_time(_integer(named.get(TIMESTAMP), default=-1)),
        replay_count=_integer(named.get(REPLAY_COUNT), default=0),
        omitted={part: _integer(named[name], default=0) for part, name in _OMITTED.items() if name in named},
    )


def _read_connect(named: Mapping[str, bytes | None]) -> Reason:
    return _read_prefixed(named, "connect", "__connect.errors.", code="class.name", stage="stage")


def _read_streams(named: Mapping[str, bytes | None]) -> Reason:
    return _read_prefixed(named, "streams", "__streams.errors.", code="exception", stage="")


def _read_prefixed(
    named: Mapping[str, bytes | None], dialect: Dialect, prefix: str, *, code: str, stage: str
) -> Reason:
    exception = "exception.class.name" if dialect == "connect" else "exception"
    message = "exception.message" if dialect == "connect" else "message"
    return Reason(
        dialect,
        topic=_text(named.get(prefix + "topic")),
        partition=_integer(named.get(prefix + "partition"), default=-1),
        offset=_integer(named.get(prefix + "offset"), default=-1),
        group=_text(named.get(prefix + "connector.name")),
        code=_text(named.get(prefix + exception)) or _text(named.get(prefix + code)),
        stage=_text(named.get(prefix + stage)) if stage else "",
        message=_text(named.get(prefix + message)),
        replay_count=_integer(named.get(REPLAY_COUNT), default=0),
    )


def _read_spring(named: Mapping[str, bytes | None]) -> Reason:
    # Spring writes its numbers as big-endian binary, four bytes for a partition and eight for the others.
    return Reason(
        "spring",
        topic=_text(named.get("kafka_dlt-original-topic")),
        partition=_binary(named.get("kafka_dlt-original-partition"), default=-1),
        offset=_binary(named.get("kafka_dlt-original-offset"), default=-1),
        group=_text(named.get("kafka_dlt-original-consumer-group")),
        code=_text(named.get("kafka_dlt-exception-cause-fqcn")) or _text(named.get("kafka_dlt-exception-fqcn")),
        message=_text(named.get("kafka_dlt-exception-message")),
        timestamp_ms=_known_time(_binary(named.get("kafka_dlt-original-timestamp"), default=-1)),
        replay_count=_integer(named.get(REPLAY_COUNT), default=0),
    )


_DIALECTS = {
    TOPIC: _read_own,
    "__connect.errors.topic": _read_connect,
    "__streams.errors.topic": _read_streams,
    "kafka_dlt-original-topic": _read_spring,
}
"""The reader of each dialect, by the header that has the topic."""


def _known_time(timestamp_ms: int) -> int | None:
    return timestamp_ms if timestamp_ms >= 0 else None


@functools.lru_cache(maxsize=_CACHED_MAX)
def _origin_headers(topic: str, partition: int, group: str) -> tuple[tuple[str, bytes], ...]:
    return (TOPIC, _cut(topic)), (PARTITION, _cut(str(partition))), (GROUP, _cut(group))


@functools.lru_cache(maxsize=_CACHED_MAX)
def _code_headers(code: str, field: str, stage: str) -> tuple[tuple[str, bytes], ...]:
    return (CODE, _cut(code)), (FIELD, _cut(field)), (STAGE, _cut(stage))


def _cut(text: str) -> bytes:
    if len(text) <= _UNCUT_CHARACTERS_MAX:
        return text.encode("utf-8", "replace")
    return text.encode(errors="replace")[:_MESSAGE_BYTES_MAX].decode(errors="ignore").encode()


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _integer(value: bytes | None, *, default: int) -> int:
    """Read a decimal number of 0 or more; return the default for anything else."""
    return int(value) if value and value.isdigit() and len(value) <= _DIGITS_MAX else default


def _binary(value: bytes | None, *, default: int) -> int:
    return int.from_bytes(value, "big", signed=True) if value and len(value) in {4, 8} else default
