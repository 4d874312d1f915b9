"""A shard as sealed bytes: the model, its counts and its offset.

They are one value in the store, so that the model always has its own offset. Damaged bytes, and those of another
pipeline or partition, are recognised and never loaded.
"""

import platform
from typing import Annotated, Any

import msgspec

from headrace.state.labels.label_join import PendingRows
from headrace.state.models.model import Scope
from headrace.state.seal import ROW_BYTES, UNREADABLE, Seal, SealError
from headrace.state.shard import Counts, Quality, Shard

_MAGIC = b"HEADRACE"
_FORMAT = 2
_KIND = "snapshot"
_HEAD = _MAGIC + bytes([_FORMAT])
CREATED_MS_MAX = 253_402_300_799_000
"""The last day of the year 9999; later times have no date in Python."""

Offset = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
LabelsPlace = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]


class SnapshotError(Exception):
    """Raised when bytes are not a valid snapshot in the format of this release."""

    status = 400
    hint = "an older snapshot is used if there is one; otherwise the model is learned again from the log"


class JoinState(msgspec.Struct, frozen=True):
    """The shard's offset in the labels topic, the first offset of its history there, and the join's state.

    `turn` is that of the read order (`read_order.py`).
    """

    offset: LabelsPlace
    start: LabelsPlace
    memory: PendingRows
    turn: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    topic: str = ""
    topic_id: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """The content of one version. `offset` is the next to learn; `start` the first of the history.

    `tables` has the number of rows of each table; the rows themselves are stored apart (`store/tables.py`). Their
    `sums` show whether the rows are those of this version (`seal.py`). `secret` is the shard's; it is also in the
    metadata of the committed offset, which other tools can overwrite.
    """

    topic: str
    topic_id: str
    partition: Offset
    offset: Offset
    start: Offset
    epoch: Offset
    counts: Counts
    quality: Quality
    scope: Scope
    codec: str
    spec: str
    python: str
    created_ms: Annotated[int, msgspec.Meta(ge=0, le=CREATED_MS_MAX)]
    model: bytes
    join: JoinState | None = None
    tables: dict[str, Offset] = msgspec.field(default_factory=dict)
    sums: dict[str, Annotated[bytes, msgspec.Meta(min_length=ROW_BYTES, max_length=ROW_BYTES)]] = msgspec.field(
        default_factory=dict
    )
    secret: str = ""


class _Whole(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The sealed content: the pipeline's name, and the snapshot."""

    name: str
    snapshot: Snapshot


def take(
    shard: Shard,
    *,
    topic: str,
    topic_id: str,
    now_ms: int,
    labels: tuple[str, str] = ("", ""),
    model: bytes | None = None,
) -> Snapshot:
    """Take a snapshot of the shard; later records do not change it.

    Without `model` the shard's model is dumped, and the bytes are its new checkpoint for an undo. `put_model` can add
    the bytes later. `labels` are the name and id of the labels topic, if there is one.
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
        scope=shard.model.can.scope,
        codec=shard.model.codec,
        spec=shard.model.spec,
        python=platform.python_version(),
        created_ms=now_ms,
        model=shard.model.dump() if model is None else model,
        join=_join(shard, labels),
        tables=shard.tables(),
        secret=shard.secret,
    )


def put_model(snapshot: Snapshot, model: bytes) -> Snapshot:
    """Return the snapshot with the model's bytes, of the same time."""
    return msgspec.structs.replace(snapshot, model=model)


def _join(shard: Shard, topic: tuple[str, str]) -> JoinState | None:
    if shard.labels is None or shard.order is None:
        return None
    return JoinState(shard.labels_offset, shard.labels_start, shard.labels.memory(), shard.order.turn, *topic)


def encode(snapshot: Snapshot, seal: Seal) -> bytes:
    """Encode as magic, format, and sealed MessagePack."""
    return _HEAD + seal.wrap(msgspec.msgpack.encode(_Whole(seal.name, snapshot)), _KIND)


def decode(sealed: bytes, seal: Seal, *, partition: int) -> Snapshot:
    """Decode the bytes of `encode` for this partition; the model stays bytes. Raises SnapshotError for any others."""
    if len(sealed) < len(_HEAD) or not sealed.startswith(_MAGIC):
        raise SnapshotError("the bytes are not a snapshot")
    if not sealed.startswith(_HEAD):
        raise SnapshotError(f"the snapshot has format {sealed[len(_MAGIC)]}; this release reads {_FORMAT}")
    try:
        whole = msgspec.msgpack.decode(seal.unwrap(sealed[len(_HEAD) :], _KIND), type=_Whole)
    except SealError as error:
        raise SnapshotError(f"the snapshot can't be trusted: {error}") from error
    except UNREADABLE as error:
        raise SnapshotError(f"the snapshot can't be read: {error}") from error
    found = whole.snapshot
    if (whole.name, found.partition) != (seal.name, partition):
        raise SnapshotError(f"the snapshot is of partition {found.partition} of the pipeline {whole.name!r}")
    if found.offset < found.start or (found.join is not None and found.join.offset < found.join.start):
        raise SnapshotError("the snapshot's offset is before the start of its history")
    return found


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """Return the figures of a version for its note: everything except the model's bytes."""
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
