"""Names of properties with dots, which TOML reads as tables where they stand without quotes."""

from collections.abc import Mapping
from typing import Any


def dotted(value: Any) -> Any:
    """Return a table with its tables in it laid flat: `{"sasl": {"username": "u"}}` is `{"sasl.username": "u"}`."""
    if not isinstance(value, Mapping):
        return value
    flat: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, Mapping):
            flat.update({f"{name}.{rest}": leaf for rest, leaf in dotted(part).items()})
        else:
            flat[name] = part
    return flat
