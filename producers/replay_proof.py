"""The proof that a record is a replay of this pipeline's: only with it do the headers that control a replay count.

Anyone may write a header, and tools copy them along. So a replay signs what it says of a record (how often it was
replayed, and whether the model has learned it) together with the record itself and its partition. The secret is the
partition's own: it rides in the mark of the committed offsets and in every snapshot, so it is the same as long as the
history is, and relearning comes to the same verdicts.
"""

import hashlib
import hmac
import secrets
from typing import Any

import msgspec

from headrace.producers.deadletter import LEARNED, REPLAY_COUNT, REPLAY_PROOF, replay_count
from headrace.producers.record_size import MessageHeaders

_SECRET_BYTES = 16


class ReplayClaim(msgspec.Struct, frozen=True):
    """What a replay says of a record: how often it was replayed, and whether the model has learned it before."""

    count: int = 0
    learned: bool = False


NEVER = ReplayClaim()
"""What is true of a record that no replay has sent, whatever its headers say."""


def new_secret() -> str:
    """Make the secret of a partition whose history begins."""
    return secrets.token_hex(_SECRET_BYTES)


def sign(
    claim: ReplayClaim, *, secret: str, topic: str, partition: int, key: bytes | None, value: bytes | None
) -> list[tuple[str, bytes]]:
    """Return the headers with which a replay sends a record to a partition."""
    headers = [(REPLAY_COUNT, b"%d" % claim.count)]
    if claim.learned:
        headers.append((LEARNED, b"true"))
    return [*headers, (REPLAY_PROOF, _signature(secret, topic, partition, claim.count, claim.learned, key, value))]


def is_claimed(headers: MessageHeaders) -> bool:
    """Tell whether a record claims to be a replay."""
    return any(name == REPLAY_PROOF for name, _ in headers)


def read(headers: MessageHeaders | None, *, secret: str, topic: str, record: Any) -> ReplayClaim:
    """Return what a replay of this pipeline's says of a record, and NEVER where no such replay has sent it.

    The record has `partition`, `key` and `value`.
    """
    if not headers or not is_claimed(headers):
        return NEVER
    named = dict(headers)
    claim = ReplayClaim(replay_count(headers), named.get(LEARNED) == b"true")
    wanted = _signature(secret, topic, record.partition, claim.count, claim.learned, record.key, record.value)
    return claim if secret and hmac.compare_digest(wanted, named[REPLAY_PROOF] or b"") else NEVER


def _signature(secret: str, *said: Any) -> bytes:
    return hmac.new(secret.encode(), msgspec.msgpack.encode(said), hashlib.sha256).hexdigest().encode()
