"""A real Apache Kafka and a real Valkey on this machine, for the demo, `headrace up` and the tests."""

from pipeline.embedded.server import EmbeddedError, Server
from pipeline.embedded.stack import Addresses, Stack

__all__ = ["Addresses", "EmbeddedError", "Server", "Stack"]
