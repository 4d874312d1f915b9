"""Seals all bytes that are written to the store, and checks the seals of those that are read.

A seal covers the bytes and their place: their kind, the pipeline, and the partition, table and key, if they have one.
Without `redis.sign_key` it is a checksum, which finds damaged and misplaced bytes. With it, it is a signature, which
nobody can make without the key: HMAC-SHA256, and for rows, which are many, BLAKE2b (RFC 7693) with a key that HMAC
derives from `redis.sign_key`.

An older version of a row still has a valid seal. So each row also has a weight, computed from its key and its seal, and
a snapshot holds the sum of a table's weights (Clarke et al. 2003, MSet-Add-Hash): an old row makes the sum wrong. With
`redis.sign_key` the weights are secret, so that nobody can find other rows with the same sum.
"""

import hashlib
import hmac
import itertools
import operator
import struct
import zlib
from collections.abc import Sequence
from typing import Annotated

import msgspec

_SIGNED, _PLAIN = b"\x01", b"\x00"
_TAG_BYTES = 32
_HEAD_BYTES = 1 + _TAG_BYTES
_SIGNATURE = b',"signature":"'
_NOTE_END_BYTES = len(_SIGNATURE) + 2 * _TAG_BYTES + len(b'"}')

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""The errors that msgspec raises for bytes that it can't decode."""
SIGN_KEY_BYTES_MIN = 16
"""The shortest `redis.sign_key`."""
ROW_BYTES = 16
"""The length of the seal before a row's value."""
_LENGTHS_MAX = 256
_ROW_MODULUS = 1 << (8 * ROW_BYTES)

Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""A number in a sealed value: not negative, and small enough for 63 bits."""


class SealError(Exception):
    """Raised when the seal of bytes does not match the bytes and their place."""

    status = 409
    hint = "it is not used: its content is learned again from the log"


class Seal:
    """Seals for the pipeline `name`: signatures with a `key`, otherwise checksums."""

    def __init__(self, name: str, key: bytes = b"") -> None:
        self.name = name
        self._key = key
        self._flag = _SIGNED if key else _PLAIN

    @property
    def is_signed(self) -> bool:
        """Whether there is a key."""
        return bool(self._key)

    def wrap(self, body: bytes, *place: str | int) -> bytes:
        """Seal bytes for a place: their kind, and what tells them apart from other bytes of that kind."""
        return self._flag + self._tag(place, body) + body

    def unwrap(self, sealed: bytes, *place: str | int) -> bytes:
        """Return the bytes that `wrap` sealed for this place. Raises SealError for any others."""
        flag, tag, body = sealed[:1], sealed[1:_HEAD_BYTES], sealed[_HEAD_BYTES:]
        if len(tag) < _TAG_BYTES or flag not in {_SIGNED, _PLAIN}:
            raise SealError("it is cut off, or it is not from Headrace")
        if flag != self._flag and self.is_signed:
            raise SealError("it is not signed, and redis.sign_key is set")
        if flag != self._flag:
            raise SealError("it is signed; set redis.sign_key")
        if not hmac.compare_digest(self._tag(place, body), tag):
            raise SealError(
                "its signature does not match: it was changed, moved, or signed with another redis.sign_key"
                if self.is_signed
                else "its checksum does not match its bytes"
            )
        return body

    def sign_note(self, note: bytes, *place: str | int) -> bytes:
        """Return a JSON object with its signature as the last field; unchanged without a key."""
        if not self.is_signed:
            return note
        return note[:-1] + _SIGNATURE + self._tag(place, note).hex().encode() + b'"}'

    def check_note(self, note: bytes, *place: str | int) -> bool:
        """Tell whether the signature of a note is right; without a key every note passes."""
        if not self.is_signed:
            return True
        end = note[-_NOTE_END_BYTES:]
        signed = note[:-_NOTE_END_BYTES] + b"}"
        whole = _SIGNATURE + self._tag(place, signed).hex().encode() + b'"}'
        return hmac.compare_digest(whole, end)

    def rows(self, partition: int, table: str) -> "RowSeal":
        """Return the seal for the rows of one table."""
        place = _framed((self.name, "rows", partition, table))
        if not self.is_signed:
            return RowSeal(hashlib.blake2b(place, digest_size=ROW_BYTES), None)
        keys = (hmac.digest(self._key, kind + place, "sha256") for kind in (b"seal", b"weight"))
        seal, weight = (hashlib.blake2b(key=key, digest_size=ROW_BYTES) for key in keys)
        return RowSeal(seal, weight)

    def _tag(self, place: tuple[str | int, ...], body: bytes) -> bytes:
        head = b"headrace" + self._flag + _framed(place)
        if not self.is_signed:
            plain = hashlib.sha256(head)
            plain.update(body)
            return plain.digest()
        signed = hmac.new(self._key, head, "sha256")
        signed.update(body)
        return signed.digest()


class RowSeal:
    """Seals and weighs the rows of one table. `seal` and `weight` are hashes that already have the table's place.

    Without `weight` (no key), a row's weight is its seal times a checksum of its key.
    """

    def __init__(self, seal: "hashlib.blake2b", weight: "hashlib.blake2b | None") -> None:
        self._seal = seal
        self._weight = weight
        # A hash for each length of keys, which is hashed first: a table's keys have few lengths.
        self._begun: dict[int, hashlib.blake2b] = {}

    def of(self, key: bytes, value: bytes | memoryview) -> bytes:
        """Return the seal of a row."""
        begun = self._begun.get(len(key))
        made = self._begin(len(key)) if begun is None else begun.copy()
        made.update(key)
        made.update(value)
        return made.digest()

    def _begin(self, length: int) -> "hashlib.blake2b":
        made = self._seal.copy()
        made.update(b"%d " % length)
        if length < _LENGTHS_MAX:
            self._begun[length] = made.copy()
        return made

    def put(self, key: bytes, value: bytes) -> bytes:
        """Return a row's seal and value together; never empty."""
        return self.of(key, value) + value

    def open(self, key: bytes, sealed: bytes) -> bytes:
        """Return the value of a sealed row. Raises SealError when its seal is wrong."""
        value = sealed[ROW_BYTES:]
        if not hmac.compare_digest(self.of(key, value), sealed[:ROW_BYTES]):
            raise SealError("it was changed after it was saved")
        return value

    def weigh(self, keys: Sequence[bytes], seals: bytes) -> int:
        """Return the sum of the weights of rows; `seals` holds their seals, in the order of the keys."""
        if self._weight is None:
            halves: tuple[int, ...] = struct.unpack(f">{2 * len(keys)}Q", seals)
            # A product with an odd factor keeps every bit of the seal.
            factors = [2 * check + 1 for check in map(zlib.crc32, keys)]
            high: int = sum(map(operator.mul, halves[::2], factors))
            low: int = sum(map(operator.mul, halves[1::2], factors))
            return ((high << 64) + low) % _ROW_MODULUS
        total, begun = 0, self._weight
        for at, key in zip(range(0, len(seals), ROW_BYTES), keys, strict=True):
            made = begun.copy()
            made.update(seals[at : at + ROW_BYTES] + key)
            total += int.from_bytes(made.digest())
        return total % _ROW_MODULUS


def sum_bytes(total: int) -> bytes:
    """Return a sum of weights as bytes, for a snapshot."""
    return total.to_bytes(ROW_BYTES)


def add_weight(total: int, weight: int) -> int:
    """Add a weight to the sum of a table, or subtract the weight of a row that is deleted or replaced."""
    return (total + weight) % _ROW_MODULUS


def split_keys(keys: bytes, lengths: bytes) -> list[bytes]:
    """Split keys that follow one another; `lengths` are decimal numbers with spaces between."""
    ends = list(itertools.accumulate(map(int, lengths.split())))
    return [keys[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _framed(parts: tuple[str | int, ...]) -> bytes:
    """Join parts with their lengths, so that no other parts give the same bytes."""
    texts = [part.encode() if isinstance(part, str) else b"%d" % part for part in parts]
    return b"".join(itertools.chain.from_iterable((b"%d " % len(text), text) for text in texts))
