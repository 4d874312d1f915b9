"""One process of the server: connects to the store, loads the models, and answers until it is asked to end.

Forked by `headrace serve`, which has imported this module and made no object of it: clients live in this process only.
"""

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvloop

from headrace.pipeline import assembly, console
from headrace.pipeline.config import config as configuration
from headrace.pipeline.config.config import Config
from headrace.pipeline.exit_code import EXIT_CONFIG
from headrace.pipeline.process.fork import KEPT, CauseReporter
from headrace.pipeline.serve.asking import Asking
from headrace.pipeline.serve.counters import Counters, SharedCounters
from headrace.pipeline.serve.http.access import AccessFileInvalid, AccessWatch, Tls, Tokens
from headrace.pipeline.serve.http.problem import Problem
from headrace.pipeline.serve.http.site import ServeSite
from headrace.pipeline.serve.models.hot_models import HotModels
from headrace.pipeline.serve.models.key_models import KeyModels
from headrace.pipeline.serve.models.model_loader import ModelLoader
from headrace.pipeline.serve.models.pinned_models import PinnedModels
from headrace.pipeline.serve.models.poller import Poller, PollerPost
from headrace.pipeline.serve.models.served_model import ServedModel
from headrace.pipeline.serve.prediction_queue import PredictionQueue
from headrace.pipeline.serve.predictor import Predictor
from headrace.pipeline.serve.protocols.routes import OPEN_PATHS, Routes
from headrace.pipeline.serve.request_body import BodyReader
from headrace.pipeline.storage import open_store
from headrace.state.models.task import ModelError
from headrace.state.store.store import Store

log = structlog.get_logger("headrace")

_FILES_MAX = 12_000
_FILES_OWN = 100
_FLUSH_S = 1.0
_LOOK_S = 1.0
# With Python's own 5 ms, a model that is loaded in a thread would hold up answers for as long.
_SWITCH_S = 0.0005


class ServerJob(msgspec.Struct, frozen=True):
    """What the parent asks of a process: which configuration, with which flags, and the slot of its counters."""

    config: str
    flags: dict[str, Any]
    slot: int


class ServerProcess:
    """The parts of one process, on a loop."""

    def __init__(
        self, config: Config, loop: asyncio.AbstractEventLoop, counters: Counters, memory: SharedCounters
    ) -> None:
        self._loop = loop
        self._counters = counters
        self._memory = memory
        self._listener: socket.socket | None = None
        self._drain_s = config.serve.drain
        store = open_store(config, timeout_s=config.serve.timeout)
        self._loader = ModelLoader(config, store)
        # What is wrong with the factory is said at the start.
        self._loader.new()
        serve = config.serve
        self.hot = HotModels(clock=loop.time, partitioner=serve.partitioner, stale_max_s=serve.stale_max)
        self._poller = self._make_poller(config, store)
        routes = self._make_routes(config)
        self._watch_access(config)
        self.site = ServeSite(
            serve,
            loop=loop,
            counters=counters,
            connections_max=_connections_max(),
            handle=routes.handle,
            admit=self._admit,
            context=lambda: self._tls.context,
        )
        loop.call_later(_LOOK_S, self._look)

    def _make_poller(self, config: Config, store: Store) -> Poller:
        post = PollerPost(
            put=lambda served: self._hand_over(self._put, served),
            confirm=lambda versions, at_s: self._hand_over(self.hot.confirm, versions, at_s),
            know=lambda partitions: self._hand_over(self.hot.know, partitions),
            fail=lambda result, reason: self._hand_over(self._fail, result, reason),
            polled=lambda: self._hand_over(self._polled),
        )
        return Poller(
            store,
            self._loader,
            name=config.name,
            scope=config.model.scope,
            freshness_s=config.serve.freshness,
            clock=self._loop.time,
            post=post,
        )

    def _make_routes(self, config: Config) -> Routes:
        serve, loop = config.serve, self._loop
        queue = PredictionQueue(
            Predictor(
                assembly.json_decoder(config), config.predictions.form, renew=self._renew, cache_max=serve.cache_max
            ),
            queue_max=serve.queue_max,
            soon=loop.call_soon,
            note=self._note_batch,
        )
        keys = None
        if config.model.scope == "key":
            keys = KeyModels(self._loader, self.hot, loop, swap=self._put, note=self._note_breaker)
        pinned = PinnedModels(self._loader, self.hot, loop)
        asking = Asking(queue, self.hot, pinned, keys, name=config.name, batch_max=serve.batch_max)
        reader = BodyReader(
            config.records.mapping,
            is_transformed=bool(config.records.transform),
            has_key="key" in config.schema_.features,
        )
        return Routes(
            reader=reader,
            asking=asking,
            memory=self._memory,
            freshness_s=serve.freshness,
            batch_max=serve.batch_max,
        )

    def _watch_access(self, config: Config) -> None:
        """Read the tokens and the certificate, and watch their files. Raises AccessFileInvalid."""
        serve, directory = config.serve, config.directory
        self._tokens = Tokens(serve.file("tokens_file", directory))
        self._tls = Tls(serve.file("tls_cert", directory), serve.file("tls_key", directory))
        reloads = {"tokens_file": self._tokens.reload, "tls_cert": self._tls.reload, "tls_key": self._tls.reload}
        self._watch = AccessWatch(
            {path: call for name, call in reloads.items() if (path := serve.file(name, directory)) is not None}
        )

    def _look(self) -> None:
        self._watch.look()
        self._loop.call_later(_LOOK_S, self._look)

    def _admit(self, _method: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Problem | None:
        if not self._tokens.is_needed or target.partition(b"?")[0] in OPEN_PATHS:
            return None
        return self._tokens.check(headers.get(b"authorization", b""))

    def _note_breaker(self, is_open: bool) -> None:  # noqa: FBT001 it is told by place
        self._counters.breaker(is_open=is_open)

    def _hand_over(self, call: Any, *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    def _put(self, served: ServedModel) -> None:
        before = self.hot.put(served)
        self.hot.reason = ""
        self._counters.reload("loaded")
        if before is not None and not before.model_name:
            self._loader.recycle(before)

    def _polled(self) -> None:
        """Begin to answer, when the models are loaded; without any, if no other process has them."""
        if self._listener is not None and (self.hot.models or not self._memory.is_answered):
            self.site.listen(self._listener)
            self._listener = None
            self._counters.enter("ready")

    def _fail(self, result: str, reason: str) -> None:
        self.hot.reason = reason
        self._counters.reload(result)

    def _renew(self, served: ServedModel) -> None:
        """Have a model loaded anew, without what it has noted since."""
        self._poller.forget(served.partition)

    def _note_batch(self, records: int, served: ServedModel) -> None:
        self._counters.batch(records, served.age_s(self._loop.time()))

    def run(self, listener: socket.socket, *, parent: int = 0) -> None:
        """Answer until the parent asks for the end, or is gone; then drain. `parent` is the end of a pipe from it."""
        self._listener = listener
        self._poller.start()
        ended = self._loop.create_future()
        self._loop.add_reader(parent, _end, self._loop, parent, ended)
        self._loop.run_until_complete(ended)
        self._counters.enter("draining")
        self._listener = None
        self._loop.run_until_complete(self._drain())
        self._poller.end()

    async def _drain(self) -> None:
        self.site.drain()
        await self.site.wait_until_empty(self._drain_s)
        self.site.close()
        # What was written goes out in the next turns of the loop.
        await self.site.wait_until_empty(_FLUSH_S)


def _end(loop: asyncio.AbstractEventLoop, parent: int, ended: "asyncio.Future[None]") -> None:
    loop.remove_reader(parent)
    if not ended.done():
        ended.set_result(None)


def _connections_max() -> int:
    """Allow as many open files as the system does, and return how many connections that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, _FILES_MAX)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(16, max(soft, most) - _FILES_OWN)


def main(job: ServerJob, memory: SharedCounters, tell: CauseReporter) -> int:
    """Run a process to its end; return its exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # A terminal's Ctrl-C, or a signal to the group, reaches the parent as well, which asks this process to end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    counters = Counters(memory, job.slot)
    try:
        config = configuration.load(Path(job.config), flags=job.flags)
        console.hide(config.conceal)
        structlog.contextvars.bind_contextvars(process=os.getpid())
        sys.setswitchinterval(_SWITCH_S)
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        process = ServerProcess(config, loop, counters, memory)
    except (configuration.ConfigError, ModelError, AccessFileInvalid) as error:
        console.complain(str(error), error.hint)
        return EXIT_CONFIG
    gc.freeze()
    tell()
    process.run(socket.socket(fileno=KEPT))
    return 0
