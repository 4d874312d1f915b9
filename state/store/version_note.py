"""A snapshot's note: a line of JSON with the figures that `model ls` and `status` show, without loading the model.

Without a signature anyone may have written it: invalid notes are skipped. A note may stop a worker from starting, but
never changes a model.
"""

from typing import Annotated, Any

import msgspec

from headrace.state.seal import UNREADABLE, Number, Seal
from headrace.state.shard_model import MODEL
from headrace.state.snapshot import CREATED_MS_MAX, Offset, Snapshot, describe

_KIND = "note"


class _Note(msgspec.Struct):
    """The fields that a note must have; it may have more."""

    topic: str
    topic_id: str
    partition: int
    offset: Offset
    epoch: int
    created_ms: Annotated[int, msgspec.Meta(ge=0, le=CREATED_MS_MAX)]
    model_bytes: Number
    bytes: Number
    codec: str
    python: str
    records: Number
    predictions: Number
    dead_letters: Number
    learned: Number
    quality: dict[str, float]
    tables: dict[str, Number] = {}
    answers: str = MODEL


def write(snapshot: Snapshot, seal: Seal, *, size: int) -> bytes:
    """Write the note of a version; `size` is the length of its sealed bytes."""
    note = msgspec.json.encode({**describe(snapshot), "bytes": size})
    return seal.sign_note(note, _KIND, seal.name, snapshot.partition)


def read(note: bytes, seal: Seal, *, partition: int) -> dict[str, Any] | None:
    """Read a note; None for one that is invalid or not signed."""
    if not seal.check_note(note, _KIND, seal.name, partition):
        return None
    try:
        checked = msgspec.json.decode(note, type=_Note)
        fields: dict[str, Any] = msgspec.json.decode(note)
    except UNREADABLE:
        return None
    fields.pop("signature", None)
    return fields if checked.partition == partition else None
