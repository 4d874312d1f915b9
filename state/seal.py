"""What is written to the store is sealed, and is read only if it is what was sealed for that very place.

A seal is of the bytes and of what they are: their kind, the pipeline, and the partition, table and key where there are
such. Without a key it is a checksum, which finds what was cut, flipped or mixed up. With one, `redis.sign_key`, it is a
signature, which nobody makes who lacks the key: HMAC-SHA256, and for rows, of which there are very many, keyed BLAKE2b
(RFC 7693) under a key that HMAC derives from it.

A row that was put back to older bytes has a right seal. What tells it from the newest is the sum of a whole table: each
row has a weight, which is that of its seal under its key, and a snapshot holds the sum of them (Clarke et al. 2003,
MSet-Add-Hash). With a key the weights are secret, so that nobody finds other rows of the same sum.
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
"""Whatever msgspec raises for bytes that it can't read."""
SIGN_KEY_BYTES_MIN = 16
"""How long a key must be."""
ROW_BYTES = 16
"""How long the seal before a row's value is."""
_LENGTHS_MAX = 256
_ROW_MODULUS = 1 << (8 * ROW_BYTES)

Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""A count in a sealed value: whatever the bytes say, it fits 63 bits and is not negative."""


class SealError(Exception):
    """Raised when bytes are not what was sealed for their place."""

    status = 409
    hint = "nothing of it is used: what it held is learned again from the log"


class Seal:
    """The seals of the pipeline `name`: signatures with a `key`, checksums without."""

    def __init__(self, name: str, key: bytes = b"") -> None:
        self.name = name
        self._key = key
        self._flag = _SIGNED if key else _PLAIN

    @property
    def is_signed(self) -> bool:
        """Whether there is a key."""
        return bool(self._key)

    def wrap(self, body: bytes, *place: str | int) -> bytes:
        """Seal bytes for a place: their kind, and all that tells them from others which the bytes do not tell."""
        return self._flag + self._tag(place, body) + body

    def unwrap(self, sealed: bytes, *place: str | int) -> bytes:
        """Return what `wrap` was given. Raises SealError for anything else."""
        flag, tag, body = sealed[:1], sealed[1:_HEAD_BYTES], sealed[_HEAD_BYTES:]
        if len(tag) < _TAG_BYTES or flag not in {_SIGNED, _PLAIN}:
            raise SealError("it is cut short, or something else")
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
        """Return a JSON object with its signature as the last field, or as it is where there is no key."""
        if not self.is_signed:
            return note
        return note[:-1] + _SIGNATURE + self._tag(place, note).hex().encode() + b'"}'

    def check_note(self, note: bytes, *place: str | int) -> bool:
        """Tell whether `sign_note` gave this; without a key any note is taken."""
        if not self.is_signed:
            return True
        end = note[-_NOTE_END_BYTES:]
        signed = note[:-_NOTE_END_BYTES] + b"}"
        whole = _SIGNATURE + self._tag(place, signed).hex().encode() + b'"}'
        return hmac.compare_digest(whole, end)

    def rows(self, partition: int, table: str) -> "RowSeal":
        """Return what seals the rows of a table."""
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
    """Seals the rows of one table, and weighs them. `seal` and `weight` are hashes that have been given what is common.

    Without a `weight` a row's weight is its seal times a checksum of its key.
    """

    def __init__(self, seal: "hashlib.blake2b", weight: "hashlib.blake2b | None") -> None:
        self._seal = seal
        self._weight = weight
        # By the length of keys, which comes first: most tables have keys of one or a few.
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
        """Put the seal of a row before its value; what is sealed is never empty."""
        return self.of(key, value) + value

    def open(self, key: bytes, sealed: bytes) -> bytes:
        """Return the value that `put` was given. Raises SealError for anything else."""
        value = sealed[ROW_BYTES:]
        if not hmac.compare_digest(self.of(key, value), sealed[:ROW_BYTES]):
            raise SealError("it is not as it was saved")
        return value

    def weigh(self, keys: Sequence[bytes], seals: bytes) -> int:
        """Return the sum of the weights of rows, whose seals follow one another in the order of their keys."""
        if self._weight is None:
            halves: tuple[int, ...] = struct.unpack(f">{2 * len(keys)}Q", seals)
            # Odd, so that no seal is multiplied away.
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


def written(total: int) -> bytes:
    """Return a sum of weights as a snapshot holds it."""
    return total.to_bytes(ROW_BYTES)


def add(total: int, weight: int) -> int:
    """Add to the sum of a table; what goes is added with a weight below zero."""
    return (total + weight) % _ROW_MODULUS


def split(texts: bytes, lengths: bytes) -> list[bytes]:
    """Return keys that follow one another, whose lengths are decimals with spaces between."""
    ends = list(itertools.accumulate(map(int, lengths.split())))
    return [texts[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _framed(parts: tuple[str | int, ...]) -> bytes:
    """Write parts down so that no others look the same."""
    texts = [part.encode() if isinstance(part, str) else b"%d" % part for part in parts]
    return b"".join(itertools.chain.from_iterable((b"%d " % len(text), text) for text in texts))
