"""The options in the query of a request."""

from typing import NamedTuple
from urllib.parse import parse_qs

from headrace.pipeline.serve.http.problem import Problem, RecordProblem


class RequestOptions(NamedTuple):
    """The options in a request's query: the key or the partition of its records, and which model is asked."""

    key: bytes | None = None
    partition: int = -1
    model: str = ""


_NONE = RequestOptions()


def options_of(query: bytes) -> RequestOptions | Problem:
    """Read the query of a request, which may be empty."""
    if not query:
        return _NONE
    fields = parse_qs(query.decode("latin-1"), keep_blank_values=True, encoding="utf-8", errors="strict")
    if unknown := fields.keys() - {"key", "partition", "model"}:
        return Problem("bad_request", f"the query has {min(unknown)!r}; it may have key, partition and model")
    partition = fields.get("partition", ["-1"])[-1]
    if "partition" in fields and not (partition.isascii() and partition.isdigit() and len(partition) <= 9):  # noqa: PLR2004 far more than a topic may have
        return RecordProblem("wrong_type", "partition must be the number of a partition", "partition")
    key = fields["key"][-1].encode() if "key" in fields else None
    return RequestOptions(key, int(partition), fields.get("model", [""])[-1])
