"""The models for the page: the saved versions of each partition, and what has changed between the oldest and newest."""

from typing import Any

import msgspec

from headrace.pipeline.config.config import Config
from headrace.pipeline.model_factory import builder
from headrace.pipeline.status.reader import StoreAnswer
from headrace.pipeline.storage import open_store
from headrace.state.compiled.description import describe
from headrace.state.loaded_model import ModelMissing, find_snapshot
from headrace.state.models.learner import ModelError
from headrace.state.shard_model import MODEL

SHOWN_MAX = 20
_STORE_S = 3.0


class Weight(msgspec.Struct, frozen=True):
    """What a step of the model has learned of a feature, now and in the oldest version (None: not met yet)."""

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


def changes(config: Config, partition: int, answer: StoreAnswer) -> dict[str, Any]:
    """Return the weights that changed most from the oldest kept version to the newest, and the model as text.

    A model that is not compiled, or is one of many by key, has no weights here; `why` then says so. Raises
    ModelMissing and the errors of the store.
    """
    store = open_store(config, timeout_s=min(config.redis.timeout, _STORE_S))
    notes = (answer.versions or {}).get(partition, ())
    if not notes:
        raise ModelMissing(f"the store holds no model of partition {partition}")
    newest, oldest = notes[0]["version"], notes[-1]["version"]
    snapshot, _ = find_snapshot(store, partition, newest)
    told = {"partition": partition, "newest": newest, "oldest": oldest, "spec": snapshot.answering.spec, "weights": []}
    if config.model.scope != "partition":
        return {**told, "why": f'models of the scope "{config.model.scope}" are not compared here'}
    try:
        before, after = (_numbers(config, store, partition, number) for number in (oldest, newest))
    except ModelError as error:
        return {**told, "why": str(error)}
    if after is None:
        return {**told, "why": "the model runs as River's objects, and its weights are not compared"}
    rows = [Weight(feature, step, now, (before or {}).get((feature, step))) for (feature, step), now in after.items()]
    rows.sort(key=lambda row: (-abs(row.now - (row.before or 0.0)), -abs(row.now)))
    return {**told, "weights": rows[:SHOWN_MAX], "count": len(rows), "why": ""}


def _numbers(config: Config, store: Any, partition: int, version: int) -> dict[tuple[str, str], float] | None:
    """Return the last step's first number of each feature: its weight in a linear model."""
    snapshot, _ = find_snapshot(store, partition, version)
    told = describe(snapshot.answering.state, builder(config)())
    if told is None:
        return None
    found: dict[tuple[str, str], float] = {}
    for feature, steps in told["features"].items():
        step, numbers = list(steps.items())[-1]
        if numbers:
            found[feature, step] = float(numbers[0])
    return found
