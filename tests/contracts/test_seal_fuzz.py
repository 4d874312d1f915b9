"""Mutated snapshots, rows, mixes, notes and marks: each is refused as what it is, and nothing else happens."""

import os
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from headrace.pipeline.recovery import offset_metadata
from headrace.state.keyed.key_row import read_row
from headrace.state.labels.join_entry import Entry
from headrace.state.quality import Quality
from headrace.state.row_packing import TableDamaged
from headrace.state.seal import UNREADABLE, Seal, SealError
from headrace.state.shard import Counts
from headrace.state.shard_model import FailedModel
from headrace.state.shared.mix_store import MixOffset, _place
from headrace.state.snapshot import SavedModel, Snapshot, SnapshotError, decode, encode
from headrace.state.store import version_note
from headrace.state.store.roster import _read
from headrace.state.store.tables import whole

TRIES = 200_000 if "HEADRACE_SOAK" in os.environ else 4_000
SEAL, SIGNED = Seal("fraud"), Seal("fraud", b"sixteen bytes or more")
SNAPSHOT = Snapshot(
    topic="in",
    topic_id="t",
    partition=3,
    offset=10,
    start=0,
    epoch=1,
    counts=Counts(10, 9, 1, 9),
    models={
        name: SavedModel("key", "c", "s", name.encode() * 9, Quality(task="binary", scored=3, total=2.0, recent=[1.0]))
        for name in ("model", "trees")
    },
    answers="model",
    python="3",
    created_ms=1,
    failed={"old": FailedModel("s", "it is full")},
    tables={"keys": 2, "keys/trees": 1},
    sums={"keys": bytes(16)},
)
MARK = b'{"e":1,"x":3,"s":2,"r":4,"p":5,"d":6,"n":7,"j":[5,1,"AAEC",[1,2,3,4,5,6,7,8,9,0],1,2],"m":"x","o":9}'
NOTE = b'{"token":"a","place":"b","pid":7,"assigned":[1,2],"quality":{"3":{"accuracy":0.5}},"member":true}'


def _decoded(seal: Seal) -> Callable[[bytes], Any]:
    return lambda value: decode(value, seal, partition=3)


def _sealed(value: bytes) -> Snapshot:
    """Read a body that was mutated and then sealed anew, as by somebody who may write to a store without a key."""
    head = encode(SNAPSHOT, SEAL)[:9]
    return decode(head + SEAL.wrap(value, "snapshot"), SEAL, partition=3)


def _entry(value: bytes) -> None:
    found = Entry.read(value)
    assert found.kind in range(4)
    _ = found.answer_of("model"), found.answer_of("trees"), found.row()


def _marked(value: bytes) -> None:
    found = offset_metadata.read(value.decode(errors="replace"))
    if found is not None:
        assert 0 <= found.start <= found.snapshot
        assert min(found.epoch, found.records, found.predictions, found.dead_letters, found.learned) >= 0


def _placed(value: bytes) -> None:
    found = _place(value)
    assert found is None or min(found.offset, found.version) >= 0


READERS: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "a snapshot": (encode(SNAPSHOT, SEAL), _decoded(SEAL)),
    "a signed snapshot": (encode(SNAPSHOT, SIGNED), _decoded(SIGNED)),
    "a snapshot sealed anew": (encode(SNAPSHOT, SEAL)[42:], _sealed),
    "a mix": (SEAL.wrap(b"body" * 9, "mix"), lambda value: SEAL.unwrap(value, "mix")),
    "a key's row": (
        SIGNED.rows(3, "keys").put(b"k", b"v" * 30),
        lambda value: SIGNED.rows(3, "keys").open(b"k", value),
    ),
    "a key's row, opened": (msgspec.msgpack.encode([7, b"model"]), lambda value: read_row(b"k", value)),
    "a label's row, opened": (Entry(0, 1, 2, 3, b"value", b"key", [str(2**70)], 4, True).row(), _entry),
    "a mark": (MARK, _marked),
    "a place": (msgspec.msgpack.encode(MixOffset(10, 3)), _placed),
    "a worker's note": (NOTE, lambda value: _read(value, SEAL, "fraud", 0)),
    "a signed note": (SIGNED.sign_note(NOTE, "worker", "fraud", 0), lambda value: _read(value, SIGNED, "fraud", 0)),
    "a version's note": (
        version_note.write(SNAPSHOT, SEAL, size=9),
        lambda value: version_note.read(value, SEAL, partition=3),
    ),
    "a number": (b"1234567", whole),
}
REFUSALS = (SnapshotError, SealError, TableDamaged, *UNREADABLE)
GRAFTS = (
    b"-1",
    b"1e300",
    b"\xff" * 9,
    b"\xcf" + b"\xff" * 8,
    b"\x00",
    b"[" * 50,
    b"\xdd\xff\xff\xff\xff",
    b'"',
    b"NaN",
    b"\xc0",
)


def mutated(value: bytes, chance: random.Random) -> bytes:
    """Flip, cut, double, drop and graft, once or a few times."""
    made = bytearray(value)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at, end = sorted((chance.randrange(len(made) + 1), chance.randrange(len(made) + 1)))
        match chance.randrange(5):
            case 0 if made:
                made[at % len(made)] ^= 1 << chance.randrange(8)
            case 1:
                del made[at:end]
            case 2:
                made[at:at] = made[at:end]
            case 3:
                made[at : at + chance.randrange(9)] = chance.choice(GRAFTS)
            case _:
                made[at:at] = chance.randbytes(chance.randrange(9))
    return bytes(made)


@pytest.mark.parametrize("what", READERS)
def test_what_is_mutated_is_refused_or_read_and_nothing_else_happens(what: str) -> None:
    value, read = READERS[what]
    read(value)
    chance, refused = random.Random(what), 0
    for _ in range(TRIES):
        other = mutated(value, chance)
        try:
            read(other)
        except REFUSALS:
            refused += 1
        else:
            assert other == value or not what.startswith(("a snapshot", "a signed snapshot", "a mix")) or "anew" in what
    assert refused or what in {"a mark", "a place", "a worker's note", "a signed note", "a version's note", "a number"}
