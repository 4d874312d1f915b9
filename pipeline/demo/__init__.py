"""`headrace demo`: the whole product on an embedded Kafka and Valkey, told in about a minute, every line checked."""

from pipeline.demo.story import demo

__all__ = ["demo"]
