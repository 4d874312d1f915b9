"""Keeps the hot models fresh: asks the store for the newest versions, in a thread, and loads what is new.

What can't be loaded is left where it is: the model before it goes on answering, and its age says so.
"""

import threading
from collections.abc import Callable
from typing import Any

import structlog

from headrace.pipeline.serve.models.hot_models import ALL
from headrace.pipeline.serve.models.model_loader import ModelLoader, SnapshotForeign
from headrace.pipeline.serve.models.served_model import ServedModel
from headrace.state.loaded_model import ModelMismatch, ModelMissing
from headrace.state.models.task import ModelError
from headrace.state.shared.mix_store import MixDamaged, MixStore
from headrace.state.store.server_note import ServerNote
from headrace.state.store.store import Store
from headrace.state.store.store_errors import STORE_ERRORS, StoreAway, StoreRefused

log = structlog.get_logger("headrace")

_POLL_SHARE = 0.15
_LOOK_S = 1.0
_RETRY_S = 1.0
_UNUSABLE = (ModelMissing, ModelMismatch, ModelError, MixDamaged, SnapshotForeign)


class PollerPost:
    """What the poller tells the loop. Each is called in the poller's thread, and must hand over to the loop."""

    def __init__(
        self,
        *,
        put: Callable[[ServedModel], None],
        confirm: Callable[[dict[int, int], float], None],
        know: Callable[[int], None],
        fail: Callable[[str, str], None],
        polled: Callable[[], None],
    ) -> None:
        self.put = put
        self.confirm = confirm
        self.know = know
        self.fail = fail
        self.polled = polled


class Poller:
    """Poll a `store` for a loader. `scope` is the models', `clock` the server's."""

    def __init__(
        self,
        store: Store,
        loader: ModelLoader,
        *,
        name: str,
        scope: str,
        freshness_s: float,
        clock: Callable[[], float],
        post: PollerPost,
    ) -> None:
        self._store = store
        self._loader = loader
        self._mix = MixStore(store, name=name) if scope == "global" else None
        self._note = ServerNote(store, name=name)
        self._freshness_s = freshness_s
        self._clock = clock
        self._post = post
        # What is loaded of each partition, and what could not be, with the time of the next try.
        self._loaded: dict[int, tuple[int, bytes]] = {}
        self._unusable: dict[int, tuple[int, bytes]] = {}
        self._partitions: list[int] = []
        self._look_at = self._retry_at = 0.0
        self._is_away = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._go, name="poller", daemon=True)

    def start(self) -> None:
        """Begin to poll."""
        self._thread.start()

    def end(self) -> None:
        """Poll no more."""
        self._ending.set()

    def forget(self, partition: int) -> None:
        """Load the model of a partition anew, even if it has not changed."""
        self._loaded.pop(partition, None)

    def _go(self) -> None:
        while not self._ending.is_set():
            begun_s = self._clock()
            try:
                self._poll(begun_s)
                self._is_away = False
            except (*STORE_ERRORS, MixDamaged) as error:
                self._fail(error)
            except Exception as error:  # noqa: BLE001 the thread must live: without it each answer is stale
                self._fail(error)
            self._post.polled()
            wait_s = self._freshness_s * _POLL_SHARE - (self._clock() - begun_s)
            self._ending.wait(max(0.01, wait_s))

    def _fail(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}" if not hasattr(error, "hint") else str(error)
        result = "away" if isinstance(error, StoreAway) else "refused" if isinstance(error, StoreRefused) else "failed"
        self._post.fail(result, reason)
        if not self._is_away:
            log.warning("the store can't be read, the models that are loaded go on answering", reason=reason)
        self._is_away = True

    def _poll(self, now_s: float) -> None:
        if now_s >= self._look_at:
            self._note.register(round(self._freshness_s * 1_000))
            if self._mix is None:
                self._partitions = self._store.partitions()
                self._post.know(max(self._partitions, default=-1) + 1)
            self._look_at = now_s + _LOOK_S
        found: dict[int, tuple[int, bytes]]
        if self._mix is None:
            heads = self._store.heads(self._partitions)
            found = {p: (head.version, head.digest) for p, head in zip(self._partitions, heads, strict=True)}
        else:
            number, life, digest, _ = self._mix.newest(())
            found = {ALL: (number, life + digest)}
        self._compare(found, now_s)

    def _compare(self, found: dict[int, tuple[int, bytes]], now_s: float) -> None:
        """Confirm what is loaded already, and load what is newer."""
        is_retry = now_s >= self._retry_at
        confirmed = {p: head[0] for p, head in found.items() if head == self._loaded.get(p)}
        self._post.confirm(confirmed, now_s)
        for partition, head in found.items():
            if partition in confirmed or not head[0] or (head == self._unusable.get(partition) and not is_retry):
                continue
            try:
                served = self._load(partition, head[0], now_s)
            except _UNUSABLE as error:
                self._keep(partition, head, error)
            else:
                self._loaded[partition] = head if served.version == head[0] else (served.version, b"")
                self._unusable.pop(partition, None)
                self._post.put(served)
        if is_retry:
            self._retry_at = now_s + _RETRY_S

    def _load(self, partition: int, version: int, now_s: float) -> ServedModel:
        if partition == ALL:
            return self._loader.mix(confirmed_s=now_s)
        return self._loader.newest(partition, version, confirmed_s=now_s)

    def _keep(self, partition: int, head: tuple[int, bytes], error: Any) -> None:
        """Go on with the model that is loaded, if there is one."""
        self._post.fail("unusable", str(error))
        if self._unusable.get(partition) != head:
            where = {} if partition == ALL else {"partition": partition}
            log.warning("a saved model can't be used", **where, version=head[0], reason=str(error), hint=error.hint)
        self._unusable[partition] = head
