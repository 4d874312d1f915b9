"""What is known of a version beside its bytes, as a line of JSON: what `model ls` and `status` show.

Anybody may have written it: what is none is passed over. It may keep a worker off, and decides nothing of a model.
"""

from typing import Annotated, Any

import msgspec

from headrace.state.seal import UNREADABLE, Number, Seal
from headrace.state.snapshot import CREATED_MS_MAX, Offset, Snapshot, describe

_KIND = "note"


class _Note(msgspec.Struct):
    """What a note must hold, whatever else it tells."""

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


def write(snapshot: Snapshot, seal: Seal, *, size: int) -> bytes:
    """Write the note of a version whose sealed bytes are so many."""
    note = msgspec.json.encode({**describe(snapshot), "bytes": size})
    return seal.sign_note(note, _KIND, seal.name, snapshot.partition)


def read(note: bytes, seal: Seal, *, partition: int) -> dict[str, Any] | None:
    """Read a note; None for what is none, or is not signed as it should be."""
    if not seal.check_note(note, _KIND, seal.name, partition):
        return None
    try:
        whole = msgspec.json.decode(note, type=_Note)
        told: dict[str, Any] = msgspec.json.decode(note)
    except UNREADABLE:
        return None
    told.pop("signature", None)
    return told if whole.partition == partition else None
