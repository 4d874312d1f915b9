"""The heads of requests that were parsed before: a client sends the same bytes with most of its requests.

A head here was parsed whole, was accepted, and says how long its body is. The same bytes at the start of a request mean
the same again, so they need no parser. All that may change meanwhile is looked at anew: who may ask, and the limits.
"""

from typing import NamedTuple

from headrace.pipeline.serve.http.http_request import RequestHead

HEADS_MAX = 256
HEAD_BYTES_MAX = 1_024
_END = b"\r\n\r\n"


class KnownHead(NamedTuple):
    """A head, and the bytes of the body behind it."""

    head: RequestHead
    body_bytes: int


class KnownHeads:
    """The heads that the connections of one process have seen last, at most `HEADS_MAX`."""

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}

    def find(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        """Return the head and the body of bytes that are one whole request with a known head."""
        end = _end_of_head(data)
        known = self._heads.get(data[:end])
        if known is None or len(data) != end + known.body_bytes:
            return None
        return known.head, data[end:]

    def note(self, head: RequestHead, data: bytes, body_bytes: int) -> None:
        """Note a head that was accepted; `data` is the whole request, if nothing else came with it."""
        end = _end_of_head(data)
        is_told = int(head.headers.get(b"content-length", b"0")) == body_bytes
        if not end or len(data) != end + body_bytes or not is_told:
            return
        if len(self._heads) >= HEADS_MAX:
            self._heads.clear()
        self._heads[data[:end]] = KnownHead(head, body_bytes)


def _end_of_head(data: bytes) -> int:
    """Return how long the head at the start of these bytes is; 0 for a long one, and for a part of one."""
    at = data.find(_END, 0, HEAD_BYTES_MAX)
    return at + len(_END) if at >= 0 else 0
