"""`headrace init`: a project to start from: a configuration with every key, a model, and sample records."""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.pipeline.check.project_files import name_of, refuse_existing, write
from headrace.pipeline.config.template import configuration
from headrace.pipeline.console import data

_RECORDS = 200
_STARTED_MS = 1_700_000_000_000
_STEP_MS = 15_000
_COUNTRIES = ("DE", "FR", "NO", "US")

_MODEL = '''\
"""The model of the pipeline. `headrace run` calls build() once for each partition."""

from river import compose, linear_model, optim, preprocessing


def build():
    """Return any River model.

    It must build the same model each time: if the snapshots are lost, the model is learned again from the log. So
    give a seed to every part that draws random numbers, for example forest.ARFClassifier(seed=1). Define functions
    with a name at the top level of this file: a lambda can't be saved.
    """
    numbers = compose.Discard("country") | preprocessing.StandardScaler()
    words = compose.Select("country") | preprocessing.OneHotEncoder()
    return (numbers + words) | linear_model.LogisticRegression(optimizer=optim.SGD(0.3))
'''


def init(directory: Path) -> int:
    """Write a project into `directory`, which is created if necessary. Raises ProjectExists, ProjectRefused."""
    name = name_of(directory)
    files = {
        "headrace.toml": configuration(name),
        "model.py": _MODEL,
        "sample.jsonl": "".join(json.dumps(record) + "\n" for record in sample()),
    }
    refuse_existing(directory, files)
    write(directory, files)
    data.write(
        f"{directory} holds {', '.join(files)}.\n\nNext, each in a terminal of its own in {directory}:\n"
        "  headrace up                             a Kafka and a Valkey, if you have none; prints exports to paste\n"
        "  headrace run                            the pipeline\n"
        "  headrace produce sample.jsonl --wait    records in, predictions out\n"
    )
    return 0


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
