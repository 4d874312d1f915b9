"""`headrace ask`: asks the running server for predictions, or the models in the store when no server runs."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import urllib3

from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data
from headrace.pipeline.exit_code import EXIT_FAILED
from headrace.pipeline.hinted_error import HintedError
from headrace.pipeline.serve.store_answers import StoreAnswers

TOKEN_VARIABLE = "HEADRACE_TOKEN"  # noqa: S105 the name of a variable

_CONNECT_S = 2.0
_READ_S = 60.0


class AnswerRefused(HintedError):
    """Raised when the server does not answer the request."""


def ask(config: Config, *, file: Path | None, key: str | None, json: bool) -> int:
    """Ask for the records of a file, or of standard input; return 1 if one was refused. Raises AnswerRefused."""
    body = sys.stdin.buffer.read() if file is None else file.read_bytes()
    answers = _from_server(config, body, key)
    if answers is None:
        answers = StoreAnswers(config).ask(body, None if key is None else os.fsencode(key))
    for answer in answers:
        data.write((as_json(answer) if json else _line(answer)) + "\n")
    return EXIT_FAILED if any("error" in answer for answer in answers) else 0


def _from_server(config: Config, body: bytes, key: str | None) -> Sequence[dict[str, Any]] | None:
    """Return the answers of the server; None if no server runs."""
    serve = config.serve
    scheme = "https" if serve.tls_cert else "http"
    host = "127.0.0.1" if serve.host in {"", "0.0.0.0"} else serve.host  # noqa: S104 it listens everywhere
    query = "" if key is None else f"?key={quote(key, safe='')}"
    token = os.environ.get(TOKEN_VARIABLE)
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
    trusted = str(serve.file("tls_cert", config.directory)) if serve.tls_cert else None
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(_CONNECT_S, _READ_S), ca_certs=trusted) as pool:
        try:
            response = pool.request(
                "POST", f"{scheme}://{host}:{serve.port}/predict{query}", body=body, headers=headers
            )
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
            return None
        except urllib3.exceptions.HTTPError as error:
            raise AnswerRefused(
                f"the server at {host}:{serve.port} does not answer: {error}", hint="see its log"
            ) from error
    try:
        answer = msgspec.json.decode(response.data, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise AnswerRefused(
            f"what listens on {host}:{serve.port} is not `headrace serve`", hint="set serve.host and serve.port"
        ) from None
    if "predictions" in answer:
        return list(answer["predictions"])
    if response.status == 400:  # noqa: PLR2004 the one record is refused
        return [{"error": {name: answer[name] for name in ("code", "field", "detail")}}]
    if response.status != 200:  # noqa: PLR2004 answered
        hint = answer.get("hint", "see the server's log")
        if response.status == 401:  # noqa: PLR2004 unauthorized
            hint = f"put a token that serve.tokens_file knows into {TOKEN_VARIABLE}"
        raise AnswerRefused(f"the server refuses: {answer.get('detail', response.status)}", hint=hint)
    return [answer]


def _line(answer: dict[str, Any]) -> str:
    """Return an answer for people."""
    if "error" in answer:
        error = answer["error"]
        return f"refused ({error['code']}): {error['detail']}"
    if answer.get("skipped"):
        return "skipped"
    model, proba = answer["model"], answer.get("proba")
    shown = as_json(answer["prediction"])
    if proba:
        shown += f" ({', '.join(f'{label} {p:.4g}' for label, p in proba.items() if p is not None)})"
    place = f"partition {model['partition']} at offset {model['offset']}" if "partition" in model else "all partitions"
    named = f"{answer['id']}: " if answer.get("id") else ""
    return f"{named}{shown}, by version {model['version']} of {place}"
