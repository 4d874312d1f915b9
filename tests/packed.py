"""Reads packed rows as the store's own script does."""


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
