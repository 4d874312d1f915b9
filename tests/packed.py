"""Reads packed rows as the store's own script does."""

from headrace.state.keyed.keyring import TABLE, Keyring
from headrace.state.row_packing import PackedRows
from headrace.state.seal import ROW_BYTES, Seal

SEAL = Seal("fraud", b"a key of some length")


def rows_to_save(keys: Keyring) -> tuple[dict[bytes, bytes | None], dict[bytes, bytes]]:
    """Return what a keyring saves now, None for a row that is to go, and the models that `saved` needs."""
    packed, models = keys.packed(lambda table: SEAL.rows(3, table))
    return rows_of(packed[TABLE]), models


def rows_of(packed: PackedRows) -> dict[bytes, bytes | None]:
    """Read what the store would, and hold its seals."""
    seal, texts = SEAL.rows(3, TABLE), [text for chunk in packed.chunks for text in texts_of(chunk)]
    rows: dict[bytes, bytes | None] = {}
    for key, sealed in zip(texts[::2], texts[1::2], strict=True):
        rows[key] = seal.open(key, sealed) if sealed else None
    assert len(rows) == packed.rows == len(texts) // 2
    kept = [(key, sealed[:ROW_BYTES]) for key, sealed in zip(texts[::2], texts[1::2], strict=True) if sealed]
    weight = seal.weigh([key for key, _ in kept], b"".join(made for _, made in kept))
    assert weight == int.from_bytes(packed.weight)
    return rows


def texts_of(chunk: bytes | memoryview) -> list[bytes]:
    """Return the texts of a chunk: MessagePack's array, and key, sealed row, key, …, with lengths of 32 bits."""
    whole = bytes(chunk)
    assert whole[0] == 0xDD
    texts, at = [], 5
    for _ in range(int.from_bytes(whole[1:5])):
        assert whole[at] == 0xDB
        end = at + 5 + int.from_bytes(whole[at + 1 : at + 5])
        texts.append(whole[at + 5 : end])
        at = end
    assert at == len(whole)
    return texts
