"""The models of keys (model.scope = "key"): read when a key is asked for, and kept while their version is the newest.

A partition's models are all of one version. When a newer version is there, the keys are read again.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from headrace.pipeline.serve.http.problem import Problem, RecordProblem
from headrace.pipeline.serve.models.breaker import AT_ONCE_MAX, CallBreaker
from headrace.pipeline.serve.models.hot_models import HotModels
from headrace.pipeline.serve.models.model_loader import KeyedModel, ModelLoader
from headrace.pipeline.serve.models.served_model import ServedModel
from headrace.pipeline.serve.request_body import AskedItem, AskedRecord
from headrace.state.store.key_rows import KEYS_MAX
from headrace.state.store.store_errors import STORE_ERRORS

_THREADS = 8
_TRIES_MAX = 4
_NO_KEY = RecordProblem(
    "missing_field", 'a record needs a key: each key has its own model (model.scope = "key")', "key"
)

FoundModels = dict[int, KeyedModel | Problem]
"""The models of a request's keys by partition, or why they could not be read."""
KeysRead = Callable[[FoundModels], None]


class KeyModels:
    """Find the models of keys. All but the reading is done in the thread of the `loop`.

    `swap` is told of newer models that a read has found.
    """

    def __init__(
        self,
        loader: ModelLoader,
        hot: HotModels,
        loop: asyncio.AbstractEventLoop,
        *,
        swap: Callable[[ServedModel], None],
        note: Callable[[bool], None],
    ) -> None:
        self._loader = loader
        self._hot = hot
        self._loop = loop
        self._swap = swap
        self._note = note
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="keys")
        self._breaker = CallBreaker()

    def find(self, records: Iterable[AskedItem], then: KeysRead) -> Problem | None:
        """Call `then` with the models of all keys, now or when they are read. Returns a problem if too many wait."""
        here: FoundModels = {}
        missing: dict[int, list[bytes]] = {}
        for record in records:
            if not isinstance(record, AskedRecord) or record.key is None:
                continue
            partition = self._hot.partition_of(record)
            if isinstance(partition, Problem):
                continue
            served = self._hot.models.get(partition)
            if not isinstance(served, KeyedModel):
                here[partition] = Problem("no_model", f"this server has no model of partition {partition} yet")
                continue
            here[partition] = served
            if record.key not in served.rows:
                missing.setdefault(partition, []).append(record.key)
        if not missing:
            then(here)
            return None
        if not self._breaker.begin(self._loop.time()):
            self._note(self._breaker.is_open)
            if self._breaker.is_open:
                return Problem("no_model", "keys can't be read from the store at the moment")
            return Problem("busy", f"{AT_ONCE_MAX} reads of keys are under way")
        self._threads.submit(self._read, here, missing, then)
        return None

    def choose(self, found: FoundModels, record: AskedRecord) -> ServedModel | Problem:
        """Return the model of a record's key; for an unknown key it is a new one, of version 0."""
        if record.key is None:
            return _NO_KEY
        partition = self._hot.partition_of(record)
        if isinstance(partition, Problem):
            return partition
        served = found.get(partition)
        if not isinstance(served, KeyedModel):
            return served or Problem("no_model", f"this server has no model of partition {partition} yet")
        problem = self._hot.refuse_stale(served)
        return problem or (served.newborn if served.rows.get(record.key) is None else served)

    def _read(self, found: FoundModels, missing: dict[int, list[bytes]], then: KeysRead) -> None:
        failed = False
        read: list[tuple[KeyedModel, Sequence[bytes], Sequence[bytes | None]]] = []
        for partition, keys in missing.items():
            served = found[partition]
            assert isinstance(served, KeyedModel)
            try:
                read.append(self._read_partition(served, list(dict.fromkeys(keys))))
            except STORE_ERRORS as error:
                failed = True
                found[partition] = Problem("no_model", f"the model of the key can't be read: {error}")
            except Exception as error:  # noqa: BLE001 the request waits for an answer
                failed = True
                found[partition] = Problem("failed", f"{type(error).__name__}: {error}")
        self._loop.call_soon_threadsafe(self._take, found, read, failed, then)

    def _read_partition(
        self, served: KeyedModel, keys: Sequence[bytes]
    ) -> tuple[KeyedModel, Sequence[bytes], Sequence[bytes | None]]:
        """Read rows of one version: of the newest, if the one that is loaded is not it any more."""
        for _ in range(_TRIES_MAX):
            rows: list[bytes | None] = []
            newest = served.version
            for start in range(0, len(keys), KEYS_MAX):
                part = self._loader.rows(served, keys[start : start + KEYS_MAX])
                if isinstance(part, int):
                    newest = part
                    break
                rows += part
            else:
                return served, keys, rows
            loaded = self._loader.newest(served.partition, newest, confirmed_s=self._loop.time())
            assert isinstance(loaded, KeyedModel)
            served = loaded
        raise TimeoutError("new versions come faster than this server can read them")

    def _take(
        self,
        found: FoundModels,
        read: list[tuple[KeyedModel, Sequence[bytes], Sequence[bytes | None]]],
        failed: bool,  # noqa: FBT001 the loop passes arguments by place
        then: KeysRead,
    ) -> None:
        self._breaker.end(self._loop.time(), failed=failed)
        self._note(self._breaker.is_open)
        for loaded, keys, rows in read:
            served, before = loaded, self._hot.models.get(loaded.partition)
            if isinstance(before, KeyedModel) and before.version == loaded.version:
                served = before
            elif before is None or before.version < loaded.version:
                self._swap(loaded)
            served.take(keys, rows)
            found[served.partition] = served
        then(found)
