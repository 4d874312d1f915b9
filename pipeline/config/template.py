"""Writes headrace.toml: every key with its meaning; those that most projects keep at the default are comments."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from headrace.pipeline.config.config import describe, describe_tables

_SET = ("kafka", "topics", "redis", "model", "delivery")
"""Sections whose keys are not commented out, except for the keys of `_UNSET`."""
_UNSET = frozenset({"kafka.oauth", "topics.labels", "topics.partitions", "redis.sign_key"})
_EXAMPLES: dict[str, Any] = {
    "kafka.oauth": "tokens:token",
    "topics.labels": "labels",
    "topics.dead_letters": "dlq.features",
    "redis.sign_key": "made by: openssl rand -hex 32",
    "labels.default": False,
    "keys.silent": 2_592_000.0,
    "sink.http.url": "https://example.com/predictions",
    "serve.stale_max": 300.0,
}
_TABLES = {
    "kafka.librdkafka": ('"compression.type" = "lz4"',),
    "redis.client": ('ssl_ca_certs = "/etc/ssl/redis-ca.pem"',),
    "redis.sentinel": ('password = "${file:/run/secrets/sentinel-password}"',),
    "challengers": ("[challengers.trees]", 'factory = "model:trees"'),
    "schema.features": ("[schema.features.amount]", 'type = "number"', "min = 0.0"),
    "sink.http.headers": ('authorization = "Bearer TOKEN"',),
}
_DURATIONS = (
    ".timeout", ".interval", ".wait", ".silent", ".freshness", ".stale_max", ".request_timeout", ".keep_alive",
    ".drain", ".span_min", ".probation",
)  # fmt: skip

_HEAD = """\
# Headrace reads this file, then the environment (HEADRACE__KAFKA__BOOTSTRAP_SERVERS=host:9092), then flags.
# A line such as `#key = value` shows a key with its default. To change it, remove the `#`, and that of its [section].
# Lines that begin with `# ` say what the next key is for.
"""


def configuration(name: str, values: Mapping[str, Any] | None = None) -> str:
    """Return the text of headrace.toml with every key. Keys that most projects keep at the default are comments.

    `values`, by dotted key, are set instead of the defaults; the value of a table is a mapping.
    """
    values = {"name": name, **(values or {})}
    lines = [_HEAD]
    section = ""
    purposes = dict(describe_tables())
    for key, default, meaning in describe():
        table, _, leaf = key.rpartition(".")
        if table != section and key not in _TABLES:
            section = table
            lines += ["", f"# {purposes[table]}", f"{'' if _is_set(table, values) else '#'}[{table}]"]
        if key in _TABLES:
            lines += _table(key, meaning, values.get(key))
            section = key
            continue
        mark = "" if key in values or (_is_set(table) and key not in _UNSET) else "#"
        value = values.get(key, _EXAMPLES.get(key, default))
        lines += [f"# {meaning}", f"{mark}{leaf} = {toml(key, value)}"]
    return "\n".join(lines) + "\n"


def _is_set(table: str, values: Mapping[str, Any] | None = None) -> bool:
    is_given = any(key.rpartition(".")[0] == table for key in values or ())
    return is_given or table.partition(".")[0] in _SET or not table


def _table(key: str, meaning: str, given: Mapping[str, Any] | None) -> list[str]:
    if given:
        return [
            "",
            f"# {meaning}",
            f"[{key}]",
            *(f"{_quoted(name)} = {_inline(value)}" for name, value in given.items()),
        ]
    lines = _TABLES[key]
    head = [] if lines[0].startswith("[") else [f"[{key}]"]
    return ["", f"# {meaning}", *(f"#{line}" for line in (*head, *lines))]


def _inline(value: Any) -> str:
    """Write the value of a key in a table of the user's; a mapping becomes an inline table."""
    if isinstance(value, Mapping) and value:
        return f"{{ {', '.join(f'{_quoted(name)} = {_inline(part)}' for name, part in value.items())} }}"
    return _escaped(value)


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _escaped(name)


def _escaped(value: Any) -> str:
    """Write a string, number, boolean or list as TOML. It looks the same in JSON, but for the character DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml(key: str, value: Any) -> str:
    """Write the value of a key as TOML."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if key.endswith(_DURATIONS):
        return f'"{value / 3_600:g}h"' if value >= 3_600 else f'"{value:g}s"'  # noqa: PLR2004 an hour
    if isinstance(value, tuple):
        value = list(value)
    return _inline(value)
