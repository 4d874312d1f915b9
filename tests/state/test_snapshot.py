import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.state.quality import Quality
from headrace.state.seal import Seal
from headrace.state.shard import Counts
from headrace.state.shard_model import FailedModel
from headrace.state.snapshot import SavedModel, Snapshot, SnapshotError, decode, describe, encode

QUALITY = Quality(task="regression", scored=2, total=1.5, squares=0.75, recent=[1.0, 0.5])


def saved(state: bytes = b"the model", quality: Quality = QUALITY) -> SavedModel:
    return SavedModel(
        scope="partition", codec="river-0.26.1-objects-1", spec="Model()", state=state, quality=quality, faults=4
    )


def snapshot(model: bytes = b"the model", **fields: object) -> Snapshot:
    whole = Snapshot(
        topic="features",
        topic_id="id-1",
        partition=3,
        offset=1_042,
        start=7,
        epoch=5,
        counts=Counts(1_035, 1_030, 5, 900),
        models={"model": saved(model)},
        answers="model",
        python="3.11.9",
        created_ms=1_700_000_000_000,
    )
    return msgspec.structs.replace(whole, **fields)


SEAL = Seal("fraud")
SEALED = encode(snapshot(), SEAL)

_COUNTS = st.builds(Counts, *[st.integers(0, 2**62)] * 4)
_QUALITY = st.builds(
    Quality,
    task=st.sampled_from(["binary", "multiclass", "regression"]),
    scored=st.integers(0, 2**62),
    total=st.floats(0, allow_nan=False),
    squares=st.floats(0, allow_nan=False),
    recent=st.lists(st.floats(allow_nan=False), max_size=5),
)


@settings(max_examples=60)
@given(
    model=st.binary(max_size=200),
    offset=st.integers(7, 2**62),
    topic=st.text(max_size=20),
    counts=_COUNTS,
    quality=_QUALITY,
)
def test_a_snapshot_comes_back_as_it_was(
    model: bytes, offset: int, topic: str, counts: Counts, quality: Quality
) -> None:
    models = {"model": saved(model, quality), "trees": saved(model[::-1], quality)}
    whole = snapshot(offset=offset, topic=topic, counts=counts, models=models, answers="trees")
    assert decode(encode(whole, SEAL), SEAL, partition=3) == whole


def test_the_same_snapshot_has_the_same_bytes() -> None:
    """A save whose answer was lost is known again by its digest."""
    assert encode(snapshot(), SEAL) == encode(snapshot(), SEAL) == SEALED


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_found(bit: int) -> None:
    for index in range(len(SEALED)):
        flipped = bytearray(SEALED)
        flipped[index] ^= 1 << bit
        with pytest.raises(SnapshotError):
            decode(bytes(flipped), SEAL, partition=3)


def test_every_cut_is_found() -> None:
    for end in range(len(SEALED)):
        with pytest.raises(SnapshotError):
            decode(SEALED[:end], SEAL, partition=3)


@settings(max_examples=60)
@given(st.binary(max_size=200))
@example(b"")
@example(b"HEADRACE")
@example(b"HEADRACE\x01" + hashlib.sha256(b"").digest())
def test_any_other_bytes_are_no_snapshot(value: bytes) -> None:
    for sealed in (value, SEALED + value if value else b"x", value + SEALED if value else b"y"):
        with pytest.raises(SnapshotError) as caught:
            decode(sealed, SEAL, partition=3)
        assert caught.value.hint


def _sealed(fields: dict[str, object], *, name: str = "fraud") -> bytes:
    return SEALED[:9] + SEAL.wrap(msgspec.msgpack.encode([name, fields]), "snapshot")


def _fields() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot()))
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.pop("offset"),
        lambda fields: fields.update(offset="1042"),
        lambda fields: fields["models"]["model"].update(state="text"),
        lambda fields: fields.update(counts=None),
        lambda fields: fields["models"]["model"].update(quality={"task": "ranking"}),
        lambda fields: fields.update(offset=-1),
        lambda fields: fields.update(epoch=2**64 - 1),
        lambda fields: fields["counts"].update(learned=-1),
        lambda fields: fields["models"]["model"]["quality"].update(squares=-1.0),
        lambda fields: fields.update(created_ms=2**62),
        lambda fields: fields.update(tables={"keys": -1}),
        lambda fields: fields.update(sums={"keys": b"short"}),
        lambda fields: fields["models"]["model"].update(faults=-1),
        lambda fields: fields.update(models=[]),
        lambda fields: fields.update(failed={"trees": {"spec": "s", "reason": "x" * 1_001}}),
    ],
    ids=[
        "a field is missing",
        "an offset in words",
        "a model in words",
        "no counts",
        "an unknown task",
        "an offset below zero",
        "an epoch without end",
        "less than nothing learned",
        "squares below zero",
        "a year without a date",
        "a table with less than no rows",
        "a sum that is cut",
        "a model with less than no faults",
        "models without names",
        "a reason without end",
    ],
)
def test_a_sealed_body_of_another_shape_is_no_snapshot(change: Callable[[dict[str, object]], object]) -> None:
    fields = _fields()
    change(fields)
    with pytest.raises(SnapshotError, match="can't be read"):
        decode(_sealed(fields), SEAL, partition=3)


def test_a_history_that_ends_before_it_begins_is_no_snapshot() -> None:
    with pytest.raises(SnapshotError, match="before the start of its history"):
        decode(_sealed({**_fields(), "offset": 6}), SEAL, partition=3)


def test_a_snapshot_of_another_partition_or_pipeline_is_named() -> None:
    with pytest.raises(SnapshotError, match="is of partition 3 of the pipeline 'fraud'"):
        decode(SEALED, SEAL, partition=4)
    with pytest.raises(SnapshotError, match="is of partition 3 of the pipeline 'spam'"):
        decode(encode(snapshot(), Seal("spam")), Seal("spam2"), partition=3)
    with pytest.raises(SnapshotError, match="is of partition 3 of the pipeline 'spam'"):
        decode(_sealed(_fields(), name="spam"), SEAL, partition=3)


def test_another_format_is_named() -> None:
    with pytest.raises(SnapshotError, match="format 2; this release reads 3"):
        decode(SEALED[:8] + b"\x02" + SEALED[9:], SEAL, partition=3)


@pytest.mark.parametrize("models", [{}, {"trees": saved()}])
def test_a_snapshot_without_the_model_that_answers_is_no_snapshot(models: dict[str, SavedModel]) -> None:
    with pytest.raises(SnapshotError, match="does not hold the model 'model', which answers"):
        decode(encode(snapshot(models=models), SEAL), SEAL, partition=3)


def test_a_field_that_a_later_release_adds_does_not_hurt() -> None:
    assert decode(_sealed({**_fields(), "added_later": 1}), SEAL, partition=3) == snapshot()


def test_the_rows_of_tables_are_told_where_there_are_tables() -> None:
    whole = snapshot(tables={"waiting": 5})
    assert decode(encode(whole, SEAL), SEAL, partition=3) == whole
    assert describe(whole)["tables"] == {"waiting": 5}
    assert "tables" not in describe(snapshot())


def test_the_description_has_everything_but_the_model() -> None:
    told = describe(snapshot())
    assert (told["offset"], told["epoch"], told["model_bytes"]) == (1_042, 5, 9)
    assert (told["records"], told["predictions"], told["dead_letters"], told["learned"]) == (1_035, 1_030, 5, 900)
    assert told["quality"] == {"scored": 2, "mae": 0.75, "rmse": pytest.approx(0.375**0.5), "mae_recent": 0.75}
    assert b"the model" not in msgspec.json.encode(told)


def test_the_description_has_the_figures_of_each_model_where_there_are_several() -> None:
    models = {"model": saved(), "trees": saved(b"another")}
    told = describe(snapshot(models=models, answers="trees", failed={"old": FailedModel("Old()", "it is full")}))
    assert (told["answers"], told["model_bytes"], told["failed"]) == ("trees", 7, {"old": "it is full"})
    assert {name: (one["bytes"], one["faults"]) for name, one in told["models"].items()} == {
        "model": (9, 4),
        "trees": (7, 4),
    }
    assert not {"answers", "models", "failed"} & describe(snapshot()).keys()
