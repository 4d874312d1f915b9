"""How large a record is to a broker, which compares its whole batch with a topic's `max.message.bytes`.

A record that is too large for any batch but its own is weighed alone: the batch's header, and the record as format 2
writes it (KIP-98). The size is that before compression, so that it does not depend on what else is in the batch.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

MessageHeaders = Sequence[tuple[str, bytes | None]]

PLAIN_BYTES_MAX = 88
"""What a record without headers has at most besides its key and value: 61 bytes of the batch, and its own numbers."""
HEADER_BYTES_MAX = 10
"""What a header has at most besides its name and value."""

_BATCH_BYTES = 61
# librdkafka's own default.
_BATCH_SIZE = 1_000_000
# Attributes, and the distances to the batch's time and offset, which are 0 for its first record.
_FIXED_BYTES = 3
_SEVEN_BITS = 7


class SizeLimits(msgspec.Struct, frozen=True):
    """The largest batch that each output topic takes, in bytes."""

    predictions: int = sys.maxsize
    dead_letters: int = sys.maxsize

    @property
    def batch(self) -> int:
        """The largest batch that both topics take."""
        return min(self.predictions, self.dead_letters)


def record_bytes(key: bytes | None, value: bytes | None, headers: MessageHeaders | None) -> int:
    """Return the size of the batch that holds this record alone, in bytes, before compression."""
    size = _FIXED_BYTES + _field_bytes(key) + _field_bytes(value) + _number_bytes(len(headers or ()))
    for name, text in headers or ():
        size += _field_bytes(name.encode(errors="surrogatepass")) + _field_bytes(text)
    return _BATCH_BYTES + _number_bytes(size) + size


def batch_bytes(settings: Mapping[str, Any], bytes_max: int | None) -> int:
    """Return librdkafka's `batch.size` for topics that take batches of this size at most.

    A broker refuses a batch of many small records as it does a single large one.
    """
    asked = int(settings.get("batch.size", _BATCH_SIZE))
    return asked if bytes_max is None else min(asked, bytes_max)


def _field_bytes(field: bytes | None) -> int:
    return 1 if field is None else _number_bytes(len(field)) + len(field)


def _number_bytes(number: int) -> int:
    """Return how many bytes a length takes: zigzag, which doubles it, and then seven bits a byte."""
    return max(1, -(-(2 * number).bit_length() // _SEVEN_BITS))
