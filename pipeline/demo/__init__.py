"""`headrace demo`: the whole product on an embedded Kafka and Valkey, told in about a minute, every line checked.

Imported by `pipeline.commands`.
"""

from headrace.pipeline.demo.story import demo

__all__ = ["demo"]
