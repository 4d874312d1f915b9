"""`headrace demo`: the whole product on an embedded Kafka and Valkey in about a minute, with every claim checked.

Imported by `pipeline.commands`.
"""

from headrace.pipeline.demo.story import demo

__all__ = ["demo"]
