"""The page's web application: its files, the stream of frames, what the rooms ask for, and the actions."""

import asyncio
import contextlib
import gzip
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.pipeline.config.config import Config
from headrace.pipeline.page import versions
from headrace.pipeline.page.actions import BODY_BYTES_MAX, Actions
from headrace.pipeline.page.ask import Asker
from headrace.pipeline.page.assets import assets
from headrace.pipeline.page.broadcast import Broadcast, TooManyViewers
from headrace.pipeline.page.frame import StreamFrame
from headrace.pipeline.page.guard import HEADERS, Asked, Guard
from headrace.pipeline.page.history import History
from headrace.pipeline.page.letters import Letters
from headrace.pipeline.page.predictions import PredictionRow, PredictionSample
from headrace.pipeline.page.watcher import Watcher

log = structlog.get_logger("headrace")

_PACKED_MIN = 1_024
_ASKED_MAX = 65_536
_LIMIT_DIGITS = 9
# A viewer waits no longer than this for the store.
_STORE_S = 3.0
Endpoint = Callable[[Request], Awaitable[Response]]


class QuestionWrong(Exception):
    """Raised when a request asks for what there can't be."""

    status = 400
    hint = "reload the page"


class PageApp:
    """The application. All that it shows comes from its `watcher` and its `sample`, whose threads call `tell`."""

    def __init__(self, config: Config, *, has_actions: bool) -> None:
        self._config = config
        self._has_actions = has_actions
        self._files = assets()
        self.broadcast = Broadcast()
        self._history = History()
        self._frame = b"null"
        self._letters = Letters(config)
        self._actions = Actions(config)
        self._store_s = min(config.redis.timeout, _STORE_S)
        self._weights = versions.WeightLog(config, store_s=self._store_s)
        self._asker: Asker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        watched = self._is_watched
        self.sample = PredictionSample(config, publish=self._tell_predictions, is_watched=watched)
        self.watcher = Watcher(
            config, publish=self._tell_frame, latency=lambda: self.sample.latency, is_watched=watched
        )

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start to read; frames go out on `loop`."""
        self._loop = loop
        self.watcher.start()
        self.sample.start()

    def stop(self) -> None:
        """End the streams; the threads end soon."""
        self.broadcast.close()
        self.sample.stop()
        self.watcher.stop()

    def routed(self, guard: Guard) -> ASGIApp:
        """Return the application behind its guard."""
        reads: dict[str, Endpoint] = {
            "/": self._file,
            "/static/{path:path}": self._file,
            "/events": self._events,
            "/api/frame": self._latest,
            "/api/about": self._about,
            "/api/history": self._told_history,
            "/api/predictions": self._predictions,
            "/api/letters": self._list_letters,
            "/api/letters/{partition:int}/{offset:int}": self._letter,
            "/api/models": self._models,
            "/api/models/{partition:int}": self._changes,
            "/api/ask": self._ask,
            "/api/ask/form": self._form,
        }
        routes = [Route(path, _explained(call, self._config.conceal)) for path, call in reads.items()]
        acts = Route("/actions/{name}", _explained(self._act, self._config.conceal), methods=["POST"])
        return _guarded(Starlette(routes=[*routes, acts]), guard)

    def _is_watched(self) -> bool:
        return self.broadcast.viewers > 0

    def _tell_frame(self, frame: StreamFrame) -> None:
        encoded = msgspec.json.encode(frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._take_frame, frame, encoded)

    def _take_frame(self, frame: StreamFrame, encoded: bytes) -> None:
        self._frame = encoded
        self._history.add(frame)
        self.broadcast.send("frame", encoded, number=frame.seq)

    def _tell_predictions(self, rows: Sequence[PredictionRow]) -> None:
        encoded = msgspec.json.encode(rows)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self.broadcast.send("predictions", encoded))

    async def _file(self, request: Request) -> Response:
        found = self._files.get(request.path_params.get("path", "index.html"))
        if found is None:
            return _json({"error": "there is no such file", "hint": "reload the page"}, 404)
        headers = {"etag": found.etag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == found.etag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(found.packed, media_type=found.media_type, headers={**headers, "content-encoding": "gzip"})
        return Response(found.content, media_type=found.media_type, headers=headers)

    async def _events(self, request: Request) -> Response:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers=headers)
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isdigit() and len(last) <= _LIMIT_DIGITS else None
        stream = self.broadcast.events(after=after)
        first = await anext(stream)

        async def body() -> Any:
            async with contextlib.aclosing(stream):
                yield first
                async for part in stream:
                    yield part

        return StreamingResponse(body(), media_type="text/event-stream", headers=headers)

    async def _latest(self, request: Request) -> Response:
        return _packed(request, self._frame)

    async def _about(self, request: Request) -> Response:
        config = self._config
        told = {
            "name": config.name,
            "actions": self._has_actions,
            "topics": {
                "features": config.topics.features,
                "predictions": config.topics.predictions,
                "labels": config.topics.labels,
                "dead_letters": config.topics.dead_letters,
            },
            "scope": config.model.scope,
            "factory": config.model.factory,
            "guarantee": config.delivery.guarantee,
            "viewers": self.broadcast.viewers,
        }
        return _packed(request, msgspec.json.encode(told))

    async def _told_history(self, request: Request) -> Response:
        return _packed(request, msgspec.json.encode(self._history.told()))

    async def _predictions(self, request: Request) -> Response:
        return _packed(request, msgspec.json.encode(self.sample.newest()))

    async def _list_letters(self, request: Request) -> Response:
        query = request.query_params
        before = query.get("before", "0")
        if not before.isdigit() or len(before) > _LIMIT_DIGITS:
            raise QuestionWrong(f"before={before[:40]} is not a number")
        told = await run_in_threadpool(self._letters.told, code=query.get("code"), before=int(before))
        return _packed(request, msgspec.json.encode(told))

    async def _letter(self, request: Request) -> Response:
        place = request.path_params
        told = await run_in_threadpool(self._letters.whole, place["partition"], place["offset"])
        return _packed(request, msgspec.json.encode(told))

    async def _models(self, request: Request) -> Response:
        told = versions.versions(self._config, self.watcher.versions)
        return _packed(request, msgspec.json.encode(told))

    async def _changes(self, request: Request) -> Response:
        partition = request.path_params["partition"]
        told = await run_in_threadpool(self._weights.told, partition)
        return _packed(request, msgspec.json.encode(told))

    async def _form(self, request: Request) -> Response:
        told = await run_in_threadpool(lambda: self._ready_asker().form(self.sample.last_record))
        return _packed(request, msgspec.json.encode(told))

    async def _ask(self, request: Request) -> Response:
        query = request.query_params
        text = query.get("features", "")
        try:
            features = msgspec.json.decode(text.encode()[:_ASKED_MAX], type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise QuestionWrong(f"the features are no JSON object: {error}") from error
        key = query.get("key") or None
        ask = self._ready_asker
        told = await run_in_threadpool(lambda: ask().answer(features, key=key))
        return _packed(request, msgspec.json.encode(told))

    def _ready_asker(self) -> Asker:
        # It loads the user's code and River, which few viewers need.
        if self._asker is None:
            self._asker = Asker(self._config, store_s=self._store_s)
        return self._asker

    async def _act(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > BODY_BYTES_MAX:
                return _json({"error": f"the body has more than {BODY_BYTES_MAX} bytes", "hint": "send less"}, 413)
        by = "unknown" if request.client is None else request.client.host
        told = await run_in_threadpool(self._actions.act, request.path_params["name"], body, by=by)
        self._letters.forget()
        return _json(told)


def _explained(call: Endpoint, conceal: Callable[[str], str]) -> Endpoint:
    """Turn the errors of a call into answers with the message and the hint, as a command prints them."""

    async def answer(request: Request) -> Response:
        try:
            return await call(request)
        except Exception as error:  # noqa: BLE001 no traceback reaches a viewer
            status = getattr(error, "status", 500)
            hint = getattr(error, "hint", "a bug: report it")
            if not hasattr(error, "hint"):
                log.warning("a request failed", path=request.url.path, reason=f"{type(error).__name__}: {error}")
            told = {name: getattr(error, name) for name in ("code", "field") if getattr(error, name, "")}
            headers = {"retry-after": "5"} if isinstance(error, TooManyViewers) else {}
            return _json({"error": conceal(str(error)), "hint": hint, **told}, status, headers)

    return answer


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    own = {"cache-control": "no-store", **(headers or {})}
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json", headers=own)


def _packed(request: Request, body: bytes) -> Response:
    headers = {"cache-control": "no-store", "vary": "accept-encoding"}
    if len(body) >= _PACKED_MIN and "gzip" in request.headers.get("accept-encoding", ""):
        body, headers = gzip.compress(body, 5), {**headers, "content-encoding": "gzip"}
    return Response(body, media_type="application/json", headers=headers)


def _guarded(app: ASGIApp, guard: Guard) -> ASGIApp:
    """Endpoint only what the guard lets through, and add its headers to every answer."""
    own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        refusal = guard.refusal(_asked(scope))
        if refusal:
            hint = "open the address that `headrace page` printed"
            answer = _json({"status": 403, "error": refusal, "hint": hint}, 403)
            await answer(scope, receive, send_with_headers)
        else:
            await app(scope, receive, send_with_headers)

    return guarded


def _asked(scope: Scope) -> Asked:
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        # Two of the same contradict each other, and none is believed.
        headers[name] = value if name not in headers else b"\0"
    texts = {name: value.decode("latin-1") for name, value in headers.items()}
    return Asked(
        method=scope["method"],
        path=scope["path"],
        host=texts.get(b"host", ""),
        origin=texts.get(b"origin"),
        site=texts.get(b"sec-fetch-site"),
        mode=texts.get(b"sec-fetch-mode"),
        authorization=texts.get(b"authorization", ""),
    )
