"""The signature by which a replayed record is known: without it the headers of a replay do not count.

Anyone can write headers, and tools copy them. So a replay signs its claims (the number of replays, and whether the
model has learned the record) together with the record and its partition. Each partition has its own secret, kept in the
metadata of the committed offset and in every snapshot: relearning the same history accepts the same signatures.
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
    """The claims of a replay: the number of replays, and whether the model has learned the record before."""

    count: int = 0
    learned: bool = False


NEVER = ReplayClaim()
"""The claims of a record that no replay has sent, or whose signature is wrong."""


def new_secret() -> str:
    """Make the secret of a partition whose first record is about to be learned."""
    return secrets.token_hex(_SECRET_BYTES)


def sign(
    claim: ReplayClaim, *, secret: str, topic: str, partition: int, key: bytes | None, value: bytes | None
) -> list[tuple[str, bytes]]:
    """Return the headers of a replay: its claims, and their signature."""
    headers = [(REPLAY_COUNT, b"%d" % claim.count)]
    if claim.learned:
        headers.append((LEARNED, b"true"))
    return [*headers, (REPLAY_PROOF, _signature(secret, topic, partition, claim.count, claim.learned, key, value))]


def is_claimed(headers: MessageHeaders) -> bool:
    """Tell whether a record claims to be a replay."""
    return any(name == REPLAY_PROOF for name, _ in headers)


def read(headers: MessageHeaders | None, *, secret: str, topic: str, record: Any) -> ReplayClaim:
    """Return the signed claims of a replayed record; NEVER for any other record.

    The record has `partition`, `key` and `value`.
    """
    if not headers or not is_claimed(headers):
        return NEVER
    named = dict(headers)
    claim = ReplayClaim(replay_count(headers), named.get(LEARNED) == b"true")
    wanted = _signature(secret, topic, record.partition, claim.count, claim.learned, record.key, record.value)
    return claim if secret and hmac.compare_digest(wanted, named[REPLAY_PROOF] or b"") else NEVER


def _signature(secret: str, *signed: Any) -> bytes:
    return hmac.new(secret.encode(), msgspec.msgpack.encode(signed), hashlib.sha256).hexdigest().encode()
