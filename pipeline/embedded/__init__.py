"""A real Apache Kafka and a real Valkey on this machine, for the demo, `headrace up` and the tests.

Imported by `pipeline.commands` and `pipeline.demo`.
"""

from headrace.pipeline.embedded.server import EmbeddedError, Server
from headrace.pipeline.embedded.stack import Addresses, Stack

__all__ = ["Addresses", "EmbeddedError", "Server", "Stack"]
