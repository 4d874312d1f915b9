"""A shard as bytes: the model, its counts and the offset at which it stands, sealed with a checksum.

Written to the store in one piece, so model and offset can't part. Bytes that were cut or flipped are
found by their seal and never loaded.
"""

import hashlib
import platform
from typing import Any

import msgspec

from state.cell import Scope
from state.labels import Memory
from state.shard import Counts, Quality, Shard

_MAGIC = b"HEADRACE"
_FORMAT = 1
_SEAL_BYTES = 32
_HEAD_BYTES = len(_MAGIC) + 1 + _SEAL_BYTES


class SnapshotError(Exception):
    """Raised when bytes are no whole snapshot of a format that this release reads."""

    status = 400
    hint = "an older snapshot is used if there is one, else the model is learned again from the log"


class Join(msgspec.Struct, frozen=True):
    """Where a shard stands in the labels topic, the first offset of its history there, and what it remembers.

    `turn` is that of the order in which it was learned (`order`).
    """

    offset: int
    start: int
    memory: Memory
    turn: int = 0
    topic: str = ""
    topic_id: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """What one version holds. `offset` is the next to learn; `start` the first of the history.

    `tables` tells how many rows each table of the shard has at that moment; the rows lie beside it (`table`). `secret`
    is the shard's: it stands in the mark of the committed offset as well, which other tools can overwrite.
    """

    topic: str
    topic_id: str
    partition: int
    offset: int
    start: int
    epoch: int
    counts: Counts
    quality: Quality
    scope: Scope
    codec: str
    spec: str
    python: str
    created_ms: int
    model: bytes
    join: Join | None = None
    tables: dict[str, int] = msgspec.field(default_factory=dict)
    secret: str = ""


def take(
    shard: Shard,
    *,
    topic: str,
    topic_id: str,
    now_ms: int,
    labels: tuple[str, str] = ("", ""),
    model: bytes | None = None,
) -> Snapshot:
    """Take a snapshot of the shard as it stands, which does not change when the shard goes on.

    The model's bytes serve its next undo as well; with `model` they are those, or are put in later (`put_model`).
    `labels` are the name and id of the labels topic, where there is one.
    """
    quality = shard.quality_now()
    versions = {version: msgspec.structs.replace(score) for version, score in quality.versions.items()}
    return Snapshot(
        topic=topic,
        topic_id=topic_id,
        partition=shard.partition,
        offset=shard.offset,
        start=shard.start,
        epoch=shard.epoch,
        counts=msgspec.structs.replace(shard.counts),
        quality=msgspec.structs.replace(quality, versions=versions),
        scope=shard.mind.scope,
        codec=shard.mind.codec,
        spec=shard.mind.spec,
        python=platform.python_version(),
        created_ms=now_ms,
        model=shard.mind.checkpoint() if model is None else model,
        join=_join(shard, labels),
        tables=shard.tables(),
        secret=shard.secret,
    )


def put_model(snapshot: Snapshot, model: bytes) -> Snapshot:
    """Return the snapshot with the model's bytes of its moment."""
    return msgspec.structs.replace(snapshot, model=model)


def _join(shard: Shard, topic: tuple[str, str]) -> Join | None:
    if shard.labels is None or shard.order is None:
        return None
    return Join(shard.labels_offset, shard.labels_start, shard.labels.memory(), shard.order.turn, *topic)


def encode(snapshot: Snapshot) -> bytes:
    """Encode as magic, format, SHA-256 of the rest, MessagePack."""
    body = msgspec.msgpack.encode(snapshot)
    return _MAGIC + bytes([_FORMAT]) + hashlib.sha256(body).digest() + body


def decode(sealed: bytes) -> Snapshot:
    """Decode what `encode` gave. Raises SnapshotError for anything else; no model is loaded by it."""
    head, body = sealed[:_HEAD_BYTES], sealed[_HEAD_BYTES:]
    if len(head) < _HEAD_BYTES or not head.startswith(_MAGIC):
        raise SnapshotError("the bytes are no snapshot")
    if head[len(_MAGIC)] != _FORMAT:
        raise SnapshotError(f"the snapshot has format {head[len(_MAGIC)]}; this release reads {_FORMAT}")
    if hashlib.sha256(body).digest() != head[-_SEAL_BYTES:]:
        raise SnapshotError("the snapshot's checksum does not match its bytes")
    try:
        return msgspec.msgpack.decode(body, type=Snapshot)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"the snapshot can't be read: {error}") from error


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """Return what a person asks of a version: everything but the model's bytes."""
    return {
        "topic": snapshot.topic,
        "topic_id": snapshot.topic_id,
        "partition": snapshot.partition,
        "offset": snapshot.offset,
        **({"labels_offset": snapshot.join.offset} if snapshot.join is not None else {}),
        "epoch": snapshot.epoch,
        "created_ms": snapshot.created_ms,
        "model_bytes": len(snapshot.model),
        "codec": snapshot.codec,
        "python": snapshot.python,
        **msgspec.structs.asdict(snapshot.counts),
        "quality": snapshot.quality.summary(),
        **({"tables": snapshot.tables} if snapshot.tables else {}),
    }
