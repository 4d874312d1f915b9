"""Asks the models of a pipeline: its running server, or the models in the store when no server runs.

`headrace ask` and the page ask by it, so both get the same answers.
"""

import os
import threading
from typing import Any
from urllib.parse import quote

import msgspec
import urllib3

from headrace.consumers.record import RecordDecoder
from headrace.pipeline.config.config import Config
from headrace.pipeline.hinted_error import HintedError
from headrace.pipeline.serve.store_answers import StoreAnswers

TOKEN_VARIABLE = "HEADRACE_TOKEN"  # noqa: S105 the name of a variable
FROM_STORE = "the newest saved model"

_CONNECT_S = 2.0
_READY_S = 5.0
_READ_S = 60.0
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 it listens on all addresses


class AnswerRefused(HintedError):
    """Raised when the server does not answer the request."""


class ModelAnswers(msgspec.Struct, frozen=True):
    """An answer, or an `error`, for each record of a request, and what gave them."""

    by: str
    answers: list[dict[str, Any]]


class ModelClient:
    """Ask the models of one pipeline, from any thread.

    `decoder` reads records that are not in the form of the topic. No server reads them, so the store is asked. A read
    of the store may take `store_s` seconds, None for `redis.timeout`.
    """

    def __init__(self, config: Config, *, decoder: RecordDecoder | None = None, store_s: float | None = None) -> None:
        self._config = config
        self._decoder = decoder
        self._store_s = store_s
        self._store: StoreAnswers | None = None
        self._lock = threading.Lock()
        serve = config.serve
        host = _EVERYWHERE.get(serve.host, serve.host)
        scheme = "https" if serve.tls_cert else "http"
        self._address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{serve.port}"
        trusted = str(serve.file("tls_cert", config.directory)) if serve.tls_cert else None
        self._pool = urllib3.PoolManager(retries=False, ca_certs=trusted)

    def ask(self, body: bytes, key: bytes | None) -> ModelAnswers:
        """Return an answer, or an `error`, for each record of a body.

        Raises AnswerRefused, ModelMissing, ModelMismatch, ModelError and the errors of the store.
        """
        if self._decoder is None and self._is_served():
            return ModelAnswers(f"the server at {self._address}", self._ask_server(body, key))
        with self._lock:
            if self._store is None:
                self._store = StoreAnswers(self._config, decoder=self._decoder, timeout_s=self._store_s)
            return ModelAnswers(FROM_STORE, self._store.ask(body, key))

    def _is_served(self) -> bool:
        """Tell whether a server of this pipeline runs. Whatever else listens on its port is not asked."""
        try:
            response = self._send("GET", f"/v2/models/{quote(self._config.name, safe='')}/ready", read_s=_READY_S)
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
            return False
        told = _read(response)
        if response.status == 401 and told.get("code") == "unauthorized":  # noqa: PLR2004
            raise _refused(told)
        return "ready" in told or told.get("code") == "no_model"

    def _ask_server(self, body: bytes, key: bytes | None) -> list[dict[str, Any]]:
        query = "" if key is None else f"?key={quote(key, safe='')}"
        try:
            response = self._send("POST", f"/predict{query}", body=body, read_s=_READ_S)
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
            raise AnswerRefused(f"the server at {self._address} has just ended", hint="ask again") from error
        told = _read(response)
        if "predictions" in told:
            return list(told["predictions"])
        if response.status == 400:  # noqa: PLR2004 the one record is refused
            return [{"error": {name: told.get(name, "") for name in ("code", "field", "detail")}}]
        if response.status != 200:  # noqa: PLR2004 answered
            raise _refused(told)
        return [told]

    def _send(self, method: str, path: str, *, read_s: float, body: bytes | None = None) -> urllib3.BaseHTTPResponse:
        """Send a request. Raises NewConnectionError, ConnectTimeoutError and AnswerRefused."""
        token = os.environ.get(TOKEN_VARIABLE)
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
        timeout = urllib3.Timeout(_CONNECT_S, read_s)
        try:
            return self._pool.request(method, self._address + path, body=body, headers=headers, timeout=timeout)
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
            raise
        except urllib3.exceptions.HTTPError as error:
            raise AnswerRefused(
                f"the server at {self._address} does not answer: {error}", hint="see its log"
            ) from error


def _read(response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    """Return the JSON object in the body of a response. Raises AnswerRefused for any other body."""
    try:
        return msgspec.json.decode(response.data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def _refused(told: dict[str, Any]) -> AnswerRefused:
    hint = told.get("hint", "see the server's log")
    if told.get("code") == "unauthorized":
        hint = f"put a token that serve.tokens_file knows into {TOKEN_VARIABLE}"
    return AnswerRefused(f"the server refuses: {told.get('detail', 'it gives no reason')}", hint=hint)
