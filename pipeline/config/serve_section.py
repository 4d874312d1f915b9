"""The table `[serve]` of the configuration: where the server listens, how fresh its answers are, and its limits."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from headrace.pipeline.config.sections import Seconds, Section

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB)")
_UNIT_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def size_bytes(value: Any) -> Any:
    """Convert a size such as "4 MiB" to bytes; a bare number is bytes."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError('a size is a number of bytes, or written like "64 KiB" or "4 MiB"')
        return int(float(match[1]) * _UNIT_BYTES[match[2]])
    return value


class ServeConfig(Section):
    """`headrace serve`: answers over HTTP from the models in the store."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8_500, ge=0, le=65_535, description="Port to listen on. 0 takes a free one, which is logged.")
    workers: int = Field(0, ge=0, le=128, description="Number of processes. 0 is one for each core.")
    freshness: Annotated[Seconds, Field(ge=1)] = Field(
        1.0, description="How old an answer's model may be before the answer is stale. While a server runs, models are "
        "saved as often as that needs.",
    )  # fmt: skip
    stale_max: Annotated[Seconds | None, BeforeValidator(lambda value: None if value == "never" else value)] = Field(
        None, description='Age from which a model answers no more: 503, stale. "never", the default, is no such age.'
    )
    queue_max: int = Field(
        1_000, ge=1, description="Requests that may wait in a process; a further one is a 503, busy."
    )
    batch_max: int = Field(1_000, ge=1, description="Maximum number of records in a request. More are a 413.")
    body_max: Annotated[int, BeforeValidator(size_bytes)] = Field(
        4_194_304, ge=1, le=1 << 30, description='Maximum size of a request, in bytes or as "4 MiB". More is a 413.'
    )
    request_timeout: Seconds = Field(10.0, description="Time for a request from its first byte to its last.")
    timeout: Seconds = Field(1.0, description='Time for one read of a key\'s model (model.scope = "key").')
    keep_alive: Seconds = Field(75.0, description="How long an idle connection stays open.")
    drain: Seconds = Field(10.0, description="How long a stop waits for the connections that are open.")
    cache_max: int = Field(
        0, ge=0, description="Number of answers to keep, for models that run as River. They are dropped with the model."
    )
    partitioner: Literal["murmur2", "crc32"] = Field(
        "murmur2",
        description="How producers place keys: murmur2, as Java's clients do, or crc32, librdkafka's default.",
    )
    tokens_file: str = Field(
        "",
        description="File with a SHA-256 in hex on each line: a request needs a bearer token with one of them. A "
        "number behind it is the most requests a second of this token, in each process.",
    )
    tls_cert: str = Field("", description="Certificate for HTTPS, in PEM; it is read again when it changes.")
    tls_key: str = Field("", description="Key of the certificate, in PEM.")

    @model_validator(mode="after")
    def _fits(self) -> "ServeConfig":
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key belong together: set both, or none")
        if self.stale_max is not None and self.stale_max < self.freshness:
            raise ValueError("stale_max must be at least freshness: a model is stale before it is refused")
        return self

    def file(self, name: str, directory: Path) -> Path | None:
        """Return the path of `tokens_file`, `tls_cert` or `tls_key`, from the configuration's folder; None if unset."""
        value = getattr(self, name)
        return directory / value if value else None
