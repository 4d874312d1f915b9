"""Models that a request names: a kept version, or a model that does not answer in the stream. Loaded when asked for.

A thread loads them, so that no other request waits; the request that asked goes to the queue afterwards.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from headrace.pipeline.serve.http.problem import Problem
from headrace.pipeline.serve.models.hot_models import HotModels
from headrace.pipeline.serve.models.model_loader import ModelLoader, SnapshotForeign
from headrace.pipeline.serve.models.served_model import ServedModel
from headrace.pipeline.serve.request_body import AskedRecord
from headrace.state.loaded_model import ModelMismatch, ModelMissing
from headrace.state.models.task import ModelError
from headrace.state.store.store_errors import STORE_ERRORS

_KEPT_MAX = 16
_LOADS_MAX = 32


class PinnedModel(NamedTuple):
    """The name of a model, its version, and a partition. An empty name is the one that answers."""

    name: str
    version: int
    partition: int


LoadedModels = dict[PinnedModel, ServedModel | Problem]
"""The models that a request asked for, or why they could not be loaded."""
ModelsLoaded = Callable[[LoadedModels], None]


class PinnedModels:
    """Load and keep the last used of such models. All but the loading is done in the thread of the `loop`."""

    def __init__(self, loader: ModelLoader, hot: HotModels, loop: asyncio.AbstractEventLoop) -> None:
        self._loader = loader
        self._hot = hot
        self._loop = loop
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="pinned")
        self._kept: OrderedDict[PinnedModel, ServedModel] = OrderedDict()
        self._loads = 0

    def wanted(self, record: AskedRecord, name: str, version: int) -> PinnedModel | Problem:
        """Return which model is asked for; without a version it is that of the partition's newest snapshot."""
        served = self._hot.choose(record)
        return served if isinstance(served, Problem) else self.of(served, name, version)

    def of(self, served: ServedModel, name: str, version: int) -> PinnedModel | Problem:
        """Return the model of this name and version for the partition of a model that answers now."""
        if served.partition < 0:
            return Problem("not_found", 'models of all workers have no kept versions (model.scope = "global")')
        return PinnedModel(name, version or served.version, served.partition)

    def load(self, pinned: Iterable[PinnedModel], then: ModelsLoaded) -> Problem | None:
        """Load the models that are not there, and call `then` with all. Returns a problem if too many requests wait."""
        wanted = list(dict.fromkeys(pinned))
        here: LoadedModels = {one: self._kept[one] for one in wanted if one in self._kept}
        for one in here:
            self._kept.move_to_end(one)
        missing = [one for one in wanted if one not in here]
        if not missing:
            then(here)
            return None
        if self._loads >= _LOADS_MAX:
            return Problem("busy", f"{_LOADS_MAX} requests wait already for models to be loaded")
        self._loads += 1
        self._threads.submit(self._load, here, missing, then)
        return None

    def _load(self, found: LoadedModels, missing: Iterable[PinnedModel], then: ModelsLoaded) -> None:
        for one in missing:
            try:
                at_s = self._hot.clock()
                found[one] = self._loader.newest(one.partition, one.version, confirmed_s=at_s, name=one.name)
            except (ModelMissing, ModelMismatch, ModelError, SnapshotForeign) as error:
                found[one] = Problem("not_found", str(error), hint=error.hint)
            except STORE_ERRORS as error:
                found[one] = Problem("no_model", f"the store can't be read: {error}")
            except Exception as error:  # noqa: BLE001 the request waits for an answer
                found[one] = Problem("failed", f"{type(error).__name__}: {error}")
        self._loop.call_soon_threadsafe(self._loaded, found, then)

    def _loaded(self, found: LoadedModels, then: ModelsLoaded) -> None:
        self._loads -= 1
        for pinned, served in found.items():
            if isinstance(served, ServedModel):
                self._kept[pinned] = served
        while len(self._kept) > _KEPT_MAX:
            self._kept.popitem(last=False)
        then(found)
