"""`headrace init`: a project to start from: a configuration with every key, a model, and sample records."""

import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from headrace.pipeline.config.config import describe, describe_tables
from headrace.pipeline.console import data

_RECORDS = 200
_STARTED_MS = 1_700_000_000_000
_STEP_MS = 15_000
_COUNTRIES = ("DE", "FR", "NO", "US")
_NAME_MAX = 100

_SET = ("kafka", "topics", "redis", "model", "delivery")
"""Sections whose keys are not commented out, except for the keys of `_UNSET`."""
_UNSET = frozenset({"topics.labels", "topics.partitions", "redis.sign_key"})
_EXAMPLES: dict[str, Any] = {
    "topics.labels": "labels",
    "topics.dead_letters": "dlq.features",
    "redis.sign_key": "made by: openssl rand -hex 32",
    "labels.default": False,
    "keys.silent": 2_592_000.0,
    "sink.http.url": "https://example.com/predictions",
}
_TABLES = {
    "kafka.librdkafka": ('"compression.type" = "lz4"',),
    "schema.features": ("[schema.features.amount]", 'type = "number"', "min = 0.0"),
    "sink.http.headers": ('authorization = "Bearer TOKEN"',),
}
_DURATIONS = (".timeout", ".interval", ".wait", ".silent")

_HEAD = """\
# Headrace reads this file, then the environment (HEADRACE__KAFKA__BOOTSTRAP_SERVERS=host:9092), then flags.
# A line such as `#key = value` shows a key with its default. To change it, remove the `#`, and that of its [section].
# Lines that begin with `# ` say what the next key is for.
"""

_MODEL = '''\
"""The model of the pipeline. `headrace run` calls build() once for each partition."""

from river import compose, linear_model, optim, preprocessing


def build():
    """Return any River classifier or regressor.

    It must build the same model each time: if the snapshots are lost, the model is learned again from the log. So
    give a seed to every part that draws random numbers, for example forest.ARFClassifier(seed=1). Define functions
    with a name at the top level of this file: a lambda can't be saved.
    """
    numbers = compose.Discard("country") | preprocessing.StandardScaler()
    words = compose.Select("country") | preprocessing.OneHotEncoder()
    return (numbers + words) | linear_model.LogisticRegression(optimizer=optim.SGD(0.3))
'''


class ProjectExists(Exception):
    """Raised when a file that `init` would write exists; nothing was written."""

    status = 409
    hint = "name another directory, or move the file away"


class ProjectRefused(Exception):
    """Raised when the directory can't be created or written."""

    status = 400
    hint = "name a directory that you can write"


def init(directory: Path) -> int:
    """Write a project into `directory`, which is created if necessary. Raises ProjectExists, ProjectRefused."""
    name = name_of(directory)
    files = {
        "headrace.toml": configuration(name),
        "model.py": _MODEL,
        "sample.jsonl": "".join(json.dumps(record) + "\n" for record in sample()),
    }
    for file in files:
        if (directory / file).exists():
            raise ProjectExists(f"{directory / file} is there already; nothing was written")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (directory / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ProjectRefused(f"{directory} can't be written: {error}") from error
    data.write(
        f"{directory} holds {', '.join(files)}.\n\nNext, each in a terminal of its own in {directory}:\n"
        "  headrace up                             a Kafka and a Valkey, if you have none; prints exports to paste\n"
        "  headrace run                            the pipeline\n"
        "  headrace produce sample.jsonl --wait    records in, predictions out\n"
    )
    return 0


def configuration(name: str) -> str:
    """Return the text of headrace.toml with every key. Keys that most projects keep at the default are comments."""
    lines = [_HEAD]
    section = ""
    purposes = dict(describe_tables())
    for key, default, meaning in describe():
        table, _, leaf = key.rpartition(".")
        if table != section and key not in _TABLES:
            section = table
            lines += ["", f"# {purposes[table]}", f"{'' if _is_set(table) else '#'}[{table}]"]
        mark = "" if (_is_set(table) and key not in _UNSET) else "#"
        if key in _TABLES:
            lines += _table(key, meaning)
            section = key
            continue
        value = name if key == "name" else _EXAMPLES.get(key, default)
        lines += [f"# {meaning}", f"{mark}{leaf} = {toml(key, value)}"]
    return "\n".join(lines) + "\n"


def sample(count: int = _RECORDS) -> Iterator[dict[str, Any]]:
    """Generate payments. About a third are fraud: large amounts, at night, from unknown devices, more often in the US.

    The payments are the same at each call. A few labels contradict the rule, as they do in real data.
    """
    rng = random.Random(7)  # noqa: S311 a sample is no secret
    for index in range(count):
        amount = round(math.exp(rng.gauss(3.6, 1.0)), 2)
        hour = rng.randrange(24)
        country = rng.choice(_COUNTRIES)
        known = rng.random() < 0.6  # noqa: PLR2004 most devices are
        risk = 1.6 * (math.log(amount) - 3.6) + (1.2 if hour < 7 else -0.4)  # noqa: PLR2004 the night ends at seven
        risk += (1.0 if country == "US" else -0.3) + (-1.3 if known else 1.0) - 0.5
        yield {
            "id": f"t-{index + 1}",
            "ts": _STARTED_MS + index * _STEP_MS,
            "features": {"amount": amount, "hour": hour, "country": country, "known_device": known},
            "label": risk + rng.gauss(0.0, 0.3) > 0,
        }


def name_of(directory: Path) -> str:
    """Derive the pipeline's name from the name of its directory."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", directory.resolve().name).strip("-.")[:_NAME_MAX] or "headrace"


def _is_set(table: str) -> bool:
    return table.partition(".")[0] in _SET or not table


def _table(key: str, meaning: str) -> list[str]:
    lines = _TABLES[key]
    head = [] if lines[0].startswith("[") else [f"[{key}]"]
    return ["", f"# {meaning}", *(f"#{line}" for line in (*head, *lines))]


def toml(key: str, value: Any) -> str:
    """Write the value of a key as TOML."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if key.endswith(_DURATIONS):
        return f'"{value / 3_600:g}h"' if value >= 3_600 else f'"{value:g}s"'  # noqa: PLR2004 an hour
    if isinstance(value, tuple):
        value = list(value)
    # Strings, numbers, booleans and lists of strings look the same in TOML and JSON.
    return json.dumps(value, ensure_ascii=False)
