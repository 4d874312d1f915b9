"""Computes the size of a record as the broker does, which compares a whole batch with `max.message.bytes`.

The size is that of a batch with this record alone, in record format 2 (KIP-98), before compression: so it does not
depend on the other records of the real batch.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

MessageHeaders = Sequence[tuple[str, bytes | None]]

PLAIN_BYTES_MAX = 88
"""The most bytes of a record without headers besides its key and value: 61 for the batch, the rest for lengths."""
HEADER_BYTES_MAX = 10
"""The most bytes of a header besides its name and value."""

_BATCH_BYTES = 61
# librdkafka's own default.
_BATCH_SIZE = 1_000_000
# The attributes, and the differences to the batch's first timestamp and offset, which are 0 for the first record.
_FIXED_BYTES = 3
_SEVEN_BITS = 7


class SizeLimits(msgspec.Struct, frozen=True):
    """The largest batch that the topic of each output allows, in bytes, by the output's name."""

    by_output: Mapping[str, int] = {}

    def of(self, output: str) -> int:
        """Return the limit of an output; one that is not known has none."""
        return self.by_output.get(output, sys.maxsize)

    @property
    def batch(self) -> int:
        """The largest batch that all topics allow."""
        return min(self.by_output.values(), default=sys.maxsize)


def record_bytes(key: bytes | None, value: bytes | None, headers: MessageHeaders | None) -> int:
    """Return the size of the batch that holds this record alone, in bytes, before compression."""
    size = _FIXED_BYTES + _field_bytes(key) + _field_bytes(value) + _number_bytes(len(headers or ()))
    for name, text in headers or ():
        size += _field_bytes(name.encode(errors="surrogatepass")) + _field_bytes(text)
    return _BATCH_BYTES + _number_bytes(size) + size


def batch_bytes(settings: Mapping[str, Any], bytes_max: int | None) -> int:
    """Return librdkafka's `batch.size` for topics whose largest batch has `bytes_max` bytes.

    A broker refuses a batch of many small records as it refuses a single large one.
    """
    asked = int(settings.get("batch.size", _BATCH_SIZE))
    return asked if bytes_max is None else min(asked, bytes_max)


def _field_bytes(field: bytes | None) -> int:
    return 1 if field is None else _number_bytes(len(field)) + len(field)


def _number_bytes(number: int) -> int:
    """Return the number of bytes of a length: zigzag doubles it, and a byte holds seven bits."""
    return max(1, -(-(2 * number).bit_length() // _SEVEN_BITS))
