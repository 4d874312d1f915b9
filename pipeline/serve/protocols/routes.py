"""The paths of the server, and what answers each. Predictions wait for the queue; all else is answered at once."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from headrace.pipeline.serve.asking import Asking
from headrace.pipeline.serve.counters import SharedCounters
from headrace.pipeline.serve.http.http_request import HttpRequest
from headrace.pipeline.serve.http.problem import Problem
from headrace.pipeline.serve.prediction_queue import NativeReply
from headrace.pipeline.serve.protocols.mlflow import Invocations
from headrace.pipeline.serve.protocols.open_inference import OpenInference
from headrace.pipeline.serve.protocols.request_options import options_of
from headrace.pipeline.serve.request_body import BodyReader, is_lines

_GET = frozenset((b"GET", b"HEAD"))
_POST = frozenset((b"POST",))
OPEN_PATHS = frozenset((b"/livez", b"/readyz", b"/ping", b"/v2/health/live", b"/v2/health/ready"))
"""The paths that need no token."""
_OK = b'{"status":"ok"}'
# KServe's client reads these answers of the Open Inference Protocol, and not the status alone.
_LIVE, _READY = b'{"live":true}', b'{"ready":true}'

Handle = Callable[[HttpRequest], None]


class HttpRoute(NamedTuple):
    """What answers a path: a name for the metrics, the methods, and a function."""

    name: str
    methods: frozenset[bytes]
    handle: Handle


class Routes:
    """Answer requests. `freshness_s` is the age from which an answer is stale."""

    def __init__(
        self,
        *,
        reader: BodyReader,
        asking: Asking,
        memory: SharedCounters,
        freshness_s: float,
        batch_max: int,
    ) -> None:
        self._reader = reader
        self._asking = asking
        self._hot = hot = asking.hot
        self._memory = memory
        self._freshness_s = freshness_s
        invocations = Invocations(asking, reader)
        self._inference = OpenInference(asking, reader, batch_max=batch_max)
        self._native = NativeReply(clock=hot.clock, freshness_s=freshness_s)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(memory)
        self._table: dict[bytes, HttpRoute] = {
            b"/predict": HttpRoute("predict", _POST, self._predict),
            b"/livez": HttpRoute("probe", _GET, partial(self._live, _OK)),
            b"/readyz": HttpRoute("probe", _GET, partial(self._ready, _OK)),
            b"/ping": HttpRoute("probe", _GET, partial(self._ready, _OK)),
            b"/v2/health/live": HttpRoute("probe", _GET, partial(self._live, _LIVE)),
            b"/v2/health/ready": HttpRoute("probe", _GET, partial(self._ready, _READY)),
            b"/metrics": HttpRoute("metrics", _GET, self._metrics),
            b"/models": HttpRoute("models", _GET, self._models),
            b"/invocations": HttpRoute("invocations", _POST, invocations.handle),
            b"/v2": HttpRoute("models", _GET, self._inference.server),
        }

    def handle(self, request: HttpRequest) -> None:
        """Answer a request, now or later."""
        route = self._table.get(request.path)
        if route is None and request.path.startswith(b"/v2/models/"):
            request.route = "models"
            self._inference.handle(request)
            return
        if route is None:
            request.refuse(Problem("not_found", f"there is nothing at {request.path.decode(errors='replace')[:200]}"))
            return
        request.route = route.name
        if request.method not in route.methods:
            allow = ", ".join(sorted(method.decode() for method in route.methods))
            request.refuse(Problem("not_allowed", f"{request.path.decode()} takes {allow}", allow=allow))
            return
        route.handle(request)

    def _predict(self, request: HttpRequest) -> None:
        options = options_of(request.query)
        if isinstance(options, Problem):
            request.refuse(options)
            return
        lines = is_lines(request.headers.get(b"content-type", b""))
        found = self._reader.read(request.body, is_lines=lines, key=options.key, partition=options.partition)
        if isinstance(found, Problem):
            request.refuse(found)
            return
        reply = self._native.many if found.is_many else self._native.one
        self._asking.ask(request, found.records, reply, model=options.model)

    def _live(self, answer: bytes, request: HttpRequest) -> None:
        request.reply(200, answer)

    def _ready(self, answer: bytes, request: HttpRequest) -> None:
        if not self._hot.models:
            request.refuse(Problem("no_model", self._hot.reason or "no model is loaded yet"))
        elif not self._memory.was_ready:
            request.refuse(Problem("no_model", "not all processes of the server are ready yet"))
        else:
            request.reply(200, answer)

    def _metrics(self, request: HttpRequest) -> None:
        encode, content_type = choose_encoder(request.headers.get(b"accept", b"").decode("latin-1"))
        request.reply(200, encode(self._registry), content_type=content_type.encode())

    def _models(self, request: HttpRequest) -> None:
        now_s = self._hot.clock()
        models = [
            {
                **served.place(),
                "task": served.model.task,
                "learned": served.learned,
                "age_ms": int(served.age_s(now_s) * 1_000),
                "stale": served.age_s(now_s) > self._freshness_s,
            }
            for _, served in sorted(self._hot.models.items())
        ]
        request.reply(200, msgspec.json.encode({"models": models}))
