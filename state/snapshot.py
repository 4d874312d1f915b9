"""A shard as bytes: the model, its counts and the offset at which it stands, sealed.

Written to the store in one piece, so model and offset can't part. Bytes that were cut or flipped, and those of another
pipeline or partition, are found and never loaded.
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
"""The last day of the year 9999, the last that has a date."""

Offset = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
LabelsPlace = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]


class SnapshotError(Exception):
    """Raised when bytes are no whole snapshot of a format that this release reads."""

    status = 400
    hint = "an older snapshot is used if there is one, else the model is learned again from the log"


class JoinState(msgspec.Struct, frozen=True):
    """Where a shard stands in the labels topic, the first offset of its history there, and what it remembers.

    `turn` is that of the order in which it was learned (`order`).
    """

    offset: LabelsPlace
    start: LabelsPlace
    memory: PendingRows
    turn: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    topic: str = ""
    topic_id: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """What one version holds. `offset` is the next to learn; `start` the first of the history.

    `tables` tells how many rows each table of the shard has at that moment; the rows lie beside it (`table`). By their
    `sums` rows are found that are not of this version (`seal`). `secret` is the shard's: it stands in the mark of the
    committed offset as well, which other tools can overwrite.
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
    """What is sealed: of which pipeline it is, and the snapshot."""

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
    """Return the snapshot with the model's bytes of its moment."""
    return msgspec.structs.replace(snapshot, model=model)


def _join(shard: Shard, topic: tuple[str, str]) -> JoinState | None:
    if shard.labels is None or shard.order is None:
        return None
    return JoinState(shard.labels_offset, shard.labels_start, shard.labels.memory(), shard.order.turn, *topic)


def encode(snapshot: Snapshot, seal: Seal) -> bytes:
    """Encode as magic, format, and sealed MessagePack."""
    return _HEAD + seal.wrap(msgspec.msgpack.encode(_Whole(seal.name, snapshot)), _KIND)


def decode(sealed: bytes, seal: Seal, *, partition: int) -> Snapshot:
    """Decode what `encode` gave for this partition, without its model. Raises SnapshotError for anything else."""
    if len(sealed) < len(_HEAD) or not sealed.startswith(_MAGIC):
        raise SnapshotError("the bytes are no snapshot")
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
        raise SnapshotError("the snapshot stands before the start of its history")
    return found


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
