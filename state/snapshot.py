"""A shard as sealed bytes: its models, its counts and its offset.

They are one value in the store, so that the models always have their own offset. Damaged bytes, and those of another
pipeline or partition, are recognised and never loaded.
"""

import platform
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from headrace.state.history.history import SavedHistory
from headrace.state.labels.join_state import PendingRows
from headrace.state.models.model import Scope
from headrace.state.quality import Quality
from headrace.state.seal import ROW_BYTES, UNREADABLE, Number, Seal, SealError
from headrace.state.shard import Counts, Shard
from headrace.state.shard_model import FailedModel, ShardModel

_MAGIC = b"HEADRACE"
_FORMAT = 3
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


class SavedModel(msgspec.Struct, frozen=True):
    """One model of a shard: how it is built (`spec`) and saved (`codec`), its bytes, and what `ShardModel` counts."""

    scope: Scope
    codec: str
    spec: str
    state: bytes
    quality: Quality
    faults: Number = 0


class Snapshot(msgspec.Struct, frozen=True):
    """The content of one version. `offset` is the next to learn; `start` the first of the history.

    `models` has the shard's models by name, `answers` the name of the one that answers, and `failed` those that were
    taken out. `tables` has the number of rows of each table; the rows themselves are stored apart
    (`store/tables.py`). Their `sums` show whether the rows are those of this version (`seal.py`). `secret` is the
    shard's; it is also in the metadata of the committed offset, which other tools can overwrite. `history` tells up to
    which entry of the journal the models stand.
    """

    topic: str
    topic_id: str
    partition: Offset
    offset: Offset
    start: Offset
    epoch: Offset
    counts: Counts
    models: dict[str, SavedModel]
    answers: str
    python: str
    created_ms: Annotated[int, msgspec.Meta(ge=0, le=CREATED_MS_MAX)]
    failed: dict[str, FailedModel] = msgspec.field(default_factory=dict)
    join: JoinState | None = None
    tables: dict[str, Offset] = msgspec.field(default_factory=dict)
    sums: dict[str, Annotated[bytes, msgspec.Meta(min_length=ROW_BYTES, max_length=ROW_BYTES)]] = msgspec.field(
        default_factory=dict
    )
    secret: str = ""
    history: SavedHistory = SavedHistory()

    @property
    def answering(self) -> SavedModel:
        """The model that answers."""
        return self.models[self.answers]

    def factory_of(self, name: str = "") -> str:
        """Return the factory of a model, by default of the one that answers; "" is the configured one."""
        return self.history.factories.get(name or self.answers, "")

    @property
    def models_bytes(self) -> int:
        """The bytes of all models, without their rows."""
        return sum(len(saved.state) for saved in self.models.values())


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
    states: Mapping[str, bytes] | None = None,
) -> Snapshot:
    """Take a snapshot of the shard; later records do not change it.

    Without `states` the shard's models are dumped, and the bytes are their new checkpoints for an undo. `put_states`
    can add the bytes later. `labels` are the name and id of the labels topic, if there is one.
    """
    states = shard.dump() if states is None else states
    return Snapshot(
        topic=topic,
        topic_id=topic_id,
        partition=shard.partition,
        offset=shard.offset,
        start=shard.start,
        epoch=shard.epoch,
        counts=msgspec.structs.replace(shard.counts),
        models={name: _saved(one, states.get(name, b"")) for name, one in shard.models.items()},
        answers=shard.answering.name,
        python=platform.python_version(),
        created_ms=now_ms,
        failed=dict(shard.failed),
        join=_join(shard, labels),
        tables=shard.tables(),
        secret=shard.secret,
        history=shard.history.saved(),
    )


def put_states(
    snapshot: Snapshot, states: Mapping[str, bytes], *, failed: Mapping[str, FailedModel], tables: Mapping[str, int]
) -> Snapshot:
    """Return the snapshot with the models' bytes, of the same time.

    `failed` are the models that were taken out while they were written, and `tables` those of the other models.
    """
    models = snapshot.models.items()
    return msgspec.structs.replace(
        snapshot,
        models={name: msgspec.structs.replace(saved, state=states[name]) for name, saved in models if name in states},
        failed=dict(failed),
        tables=dict(tables),
    )


def _saved(one: ShardModel, state: bytes) -> SavedModel:
    quality, model = one.quality_now(), one.model
    versions = {version: msgspec.structs.replace(score) for version, score in quality.versions.items()}
    kept = msgspec.structs.replace(quality, versions=versions)
    return SavedModel(model.can.scope, model.codec, model.spec, state, kept, one.faults)


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
    if found.answers not in found.models:
        raise SnapshotError(f"the snapshot does not hold the model {found.answers!r}, which answers")
    return found


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """Return the figures of a version for its note: everything except the models' bytes."""
    saved = snapshot.answering
    several = {name: _figures(one) for name, one in snapshot.models.items()} if len(snapshot.models) > 1 else {}
    return {
        "topic": snapshot.topic,
        "topic_id": snapshot.topic_id,
        "partition": snapshot.partition,
        "offset": snapshot.offset,
        **({"labels_offset": snapshot.join.offset} if snapshot.join is not None else {}),
        "epoch": snapshot.epoch,
        "generation": snapshot.history.generation,
        "created_ms": snapshot.created_ms,
        "model_bytes": len(saved.state),
        "codec": saved.codec,
        "python": snapshot.python,
        **msgspec.structs.asdict(snapshot.counts),
        "quality": saved.quality.summary(),
        "tallies": saved.quality.tallies(),
        **({"tables": snapshot.tables} if snapshot.tables else {}),
        **({"answers": snapshot.answers, "models": several} if several else {}),
        **({"challengers": _challengers(snapshot.history)} if snapshot.history.challenges else {}),
        **({"failed": {name: one.reason for name, one in snapshot.failed.items()}} if snapshot.failed else {}),
    }


def _challengers(history: SavedHistory) -> dict[str, Any]:
    factories = history.factories
    return {one.name: {"factory": factories.get(one.name, ""), **one.told()} for one in history.challenges}


def _figures(saved: SavedModel) -> dict[str, Any]:
    return {"bytes": len(saved.state), "codec": saved.codec, "faults": saved.faults, "quality": saved.quality.summary()}
