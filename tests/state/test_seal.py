"""Seals: what was sealed for one place opens nowhere else, and what was signed opens by its key alone."""

import random

import pytest

from headrace.state.seal import ROW_BYTES, RowSeal, Seal, SealError, add_weight

KEY = b"sixteen bytes or more"
SEALS = {"a checksum": Seal("fraud"), "a signature": Seal("fraud", KEY)}
PLACES: list[tuple[str | int, ...]] = [("mix", "fraud", 1, "ab"), ("mix", "fraud", 11, "b"), ("note", "fraud", 1, "ab")]


@pytest.mark.parametrize("seal", SEALS.values(), ids=SEALS)
def test_a_sealed_value_opens_only_in_its_own_place(seal: Seal) -> None:
    for place in PLACES:
        assert seal.unwrap(seal.wrap(b"body", *place), *place) == b"body"
        for other in [*PLACES, (), ("mix",), ("mix", "fraud1", 1, "ab"), ("mixf", "raud", 1, "ab")]:
            if other != place:
                with pytest.raises(SealError):
                    seal.unwrap(seal.wrap(b"body", *place), *other)


@pytest.mark.parametrize("seal", SEALS.values(), ids=SEALS)
def test_every_flipped_bit_and_every_cut_is_found(seal: Seal) -> None:
    sealed = seal.wrap(b"body", "mix")
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError):
            seal.unwrap(bytes(flipped), "mix")
    for end in range(len(sealed)):
        with pytest.raises(SealError):
            seal.unwrap(sealed[:end], "mix")


def test_a_signed_value_opens_only_with_its_key() -> None:
    plain, signed = SEALS.values()
    with pytest.raises(SealError, match=r"it is signed; set redis\.sign_key"):
        plain.unwrap(signed.wrap(b"body", "mix"), "mix")
    with pytest.raises(SealError, match=r"it is not signed, and redis\.sign_key is set"):
        signed.unwrap(plain.wrap(b"body", "mix"), "mix")
    with pytest.raises(SealError, match="its signature does not match"):
        signed.unwrap(Seal("fraud", KEY + b"!").wrap(b"body", "mix"), "mix")
    forged = b"\x01" + plain.wrap(b"body", "mix")[1:]
    with pytest.raises(SealError, match="its signature does not match"):
        signed.unwrap(forged, "mix")


def test_a_note_is_json_still_and_is_taken_in_its_own_place_alone() -> None:
    plain, signed = SEALS.values()
    note = b'{"token":"a","pid":7}'
    assert plain.sign_note(note, "worker", 1) == note
    assert plain.check_note(b"anything", "worker", 1)
    written = signed.sign_note(note, "worker", 1)
    assert signed.check_note(written, "worker", 1)
    for other in (note, b"", b"{}", written[:-1], written.replace(b"7", b"8"), signed.sign_note(note, "worker", 2)):
        assert not signed.check_note(other, "worker", 1)
    assert not signed.check_note(Seal("fraud", KEY * 2).sign_note(note, "worker", 1), "worker", 1)


def rows(seal: Seal) -> dict[tuple[str, int, str], RowSeal]:
    named = {(name, p, table): Seal(name, seal._key) for name in ("a", "ab") for p in (1, 11) for table in ("t", "1t")}
    return {place: made.rows(*place[1:]) for place, made in named.items()}


@pytest.mark.parametrize("seal", SEALS.values(), ids=SEALS)
def test_a_row_opens_under_its_key_in_its_table_partition_and_pipeline_alone(seal: Seal) -> None:
    for place, one in rows(seal).items():
        sealed = one.put(b"key", b"value")
        assert one.open(b"key", sealed) == b"value"
        with pytest.raises(SealError):
            one.open(b"ke", one.of(b"key", b"value") + b"yvalue")
        for elsewhere, other in rows(seal).items():
            if elsewhere != place:
                with pytest.raises(SealError):
                    other.open(b"key", sealed)


def test_a_row_that_is_not_signed_is_none_where_rows_are() -> None:
    plain, signed = (seal.rows(1, "t") for seal in SEALS.values())
    for one, other in ((plain, signed), (signed, plain), (Seal("fraud", KEY * 2).rows(1, "t"), signed)):
        with pytest.raises(SealError):
            other.open(b"key", one.put(b"key", b"value"))


@pytest.mark.parametrize("seal", SEALS.values(), ids=SEALS)
def test_the_sum_of_rows_has_no_order_and_every_change_is_in_it(seal: Seal) -> None:
    made, chance = seal.rows(1, "t"), random.Random(3)
    rows = {b"%d" % n: made.of(b"%d" % n, b"value") for n in range(50)}

    def weight(rows: dict[bytes, bytes]) -> int:
        return made.weigh(list(rows), b"".join(rows.values()))

    whole = weight(rows)
    shuffled = list(rows.items())
    chance.shuffle(shuffled)
    assert weight(dict(shuffled)) == whole < 1 << 8 * ROW_BYTES
    older = {b"7": made.of(b"7", b"older")}
    newest = {b"7": rows[b"7"]}
    changed = add_weight(add_weight(whole, weight(older)), -weight(newest))
    assert changed == weight(rows | older) != whole
    assert add_weight(add_weight(changed, -weight(older)), weight(newest)) == whole
    assert weight({}) == 0
    assert weight(rows | {b"7": rows[b"8"], b"8": rows[b"7"]}) != whole, "the seals of two keys have changed places"
    assert weight({key if key != b"7" else b"stranger": seal for key, seal in rows.items()}) != whole


def test_the_weights_of_signed_rows_can_not_be_told_from_what_stands_in_the_store() -> None:
    """Else whoever has many old rows could find some that add up to the same."""
    made, other = Seal("fraud", KEY).rows(1, "t"), Seal("fraud", KEY * 2).rows(1, "t")
    seal = made.of(b"k", b"v")
    assert made.weigh([b"k"], seal) != Seal("fraud").rows(1, "t").weigh([b"k"], seal)
    assert made.weigh([b"k"], seal) != other.weigh([b"k"], seal)
