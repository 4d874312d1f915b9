"""The models for the page: the saved versions of each partition, and what each has learned since one looked first."""

import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

import msgspec

from headrace.pipeline.config.config import Config
from headrace.pipeline.model_factory import builder
from headrace.pipeline.status.reader import StoreAnswer
from headrace.pipeline.storage import open_store
from headrace.state.compiled.description import describe
from headrace.state.loaded_model import find_snapshot
from headrace.state.models.task import ModelError
from headrace.state.shard_model import MODEL
from headrace.state.snapshot import Snapshot

SHOWN_MAX = 20
_LOOK_S = 30.0
_LOOKS_MAX = 30
_FEATURES_MAX = 2_000


class Weight(msgspec.Struct, frozen=True):
    """What a step of the model has learned of a feature, now and at the first look (None: not met yet)."""

    feature: str
    step: str
    now: float
    before: float | None


def versions(config: Config, answer: StoreAnswer) -> dict[str, Any]:
    """Return the notes of the versions of each partition, newest first, as the store last told them."""
    rows = [
        {
            "partition": partition,
            "version": note["version"],
            "offset": note["offset"],
            "learned": note["learned"],
            "created_ms": note["created_ms"],
            "bytes": note["bytes"],
            "answers": note.get("answers", MODEL),
            "quality": note["quality"],
        }
        for partition, notes in sorted((answer.versions or {}).items())
        for note in notes
    ]
    # The lifecycle of models fills these two: models that learn beside the answering one, and what became of them.
    return {"versions": rows, "scope": config.model.scope, "challengers": [], "history": []}


class WeightLog:
    """Remembers the weights of models for a quarter of an hour: the store keeps only the last versions.

    A partition's weights are remembered when somebody looks at them, at most twice a minute. A read of the store may
    take `store_s` seconds.
    """

    def __init__(self, config: Config, *, store_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._store = open_store(config, timeout_s=store_s)
        self._known: dict[int, deque[_Look]] = {}

    def told(self, partition: int) -> dict[str, Any]:
        """Return the newest weights with those that were known first, and the model as text.

        A model that is not compiled, or is one of many by key, has no weights here; `why` then says so. Raises
        ModelMissing and the errors of the store.
        """
        snapshot, version = find_snapshot(self._store, partition)
        told = {"partition": partition, "newest": version, "spec": snapshot.answering.spec, "weights": []}
        if self._config.model.scope != "partition":
            return {**told, "why": f'models of the scope "{self._config.model.scope}" are not compared here'}
        try:
            weights = _weights(self._config, snapshot)
        except ModelError as error:
            return {**told, "why": str(error)}
        if weights is None:
            return {**told, "why": "the model runs as River's objects, and its weights are not compared"}
        looks = self._known.setdefault(partition, deque(maxlen=_LOOKS_MAX))
        now = self._clock()
        if not looks or now - looks[-1].at >= _LOOK_S:
            looks.append(_Look(now, version, weights))
        first = looks[0]
        rows = [Weight(*place, value, first.weights.get(place)) for place, value in weights.items()]
        rows.sort(key=lambda row: (-abs(row.now - (row.before or 0.0)), -abs(row.now)))
        return {
            **told,
            "oldest": first.version,
            "since_s": now - first.at,
            "weights": rows[:SHOWN_MAX],
            "count": len(rows),
            "why": "",
        }


class _Look(msgspec.Struct, frozen=True):
    """The weights of a version, by feature and step, and the time at which they were read, in seconds."""

    at: float
    version: int
    weights: dict[tuple[str, str], float]


def _weights(config: Config, snapshot: Snapshot) -> dict[tuple[str, str], float] | None:
    """Return the last step's first number of each feature, its weight in a linear model; None if it is not compiled."""
    told = describe(snapshot.answering.state, builder(config)())
    if told is None:
        return None
    found: dict[tuple[str, str], float] = {}
    for feature, steps in islice(told["features"].items(), _FEATURES_MAX):
        step, numbers = list(steps.items())[-1]
        if numbers:
            found[feature, step] = float(numbers[0])
    return found
