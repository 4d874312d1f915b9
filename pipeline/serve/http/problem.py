"""The errors that the server answers: a status, a code for programs, and words for people."""

import http

import msgspec

from headrace.consumers.refusal import CODES, Refusal

RETRY_AFTER_S = 1
"""The `Retry-After` of each 429 and 503, in seconds."""

STATUSES = {
    "bad_request": 400,
    "missing_field": 400,
    "unauthorized": 401,
    "not_found": 404,
    "not_allowed": 405,
    "timeout": 408,
    "too_large": 413,
    "quota": 429,
    "headers_too_large": 431,
    "failed": 500,
    "busy": 503,
    "no_model": 503,
    "stale": 503,
}
"""The status of each code that is not a record's fault; the codes of records are those of dead letters, with 400."""

_RECORD_HINT = "correct the record: docs/dead-letters.md explains each code"
_HINTS = {
    "bad_request": "send HTTP/1.1 as RFC 9112 has it",
    "unauthorized": "send `Authorization: Bearer TOKEN` with a token whose SHA-256 is in serve.tokens_file",
    "not_found": "docs/serving.md lists the paths; GET /models lists the models",
    "not_allowed": "the header Allow names the methods of this path",
    "timeout": "send the whole request within serve.request_timeout",
    "too_large": "send fewer or smaller records, or raise serve.batch_max or serve.body_max",
    "quota": "send fewer requests a second, or raise the number behind the token in serve.tokens_file",
    "headers_too_large": "send fewer or shorter headers",
    "failed": "the server's log says more",
    "busy": "try again after Retry-After, or start more workers",
    "no_model": "start the pipeline (`headrace run`), and wait until it has saved a model",
    "stale": "start the pipeline or the store again, or raise serve.stale_max",
}


class Problem(msgspec.Struct, frozen=True):
    """Why a request is not answered with a prediction. `allow` are the methods of the path of a `not_allowed`."""

    code: str
    detail: str
    field: str = ""
    hint: str = ""
    allow: str = ""

    @property
    def status(self) -> int:
        """The status of the response."""
        return STATUSES.get(self.code, 400)

    @property
    def headers(self) -> bytes:
        """The lines that the response's head has for this problem."""
        if self.status in {http.HTTPStatus.SERVICE_UNAVAILABLE, http.HTTPStatus.TOO_MANY_REQUESTS}:
            return b"retry-after: %d\r\n" % RETRY_AFTER_S
        if self.status == http.HTTPStatus.UNAUTHORIZED:
            return b'www-authenticate: Bearer realm="headrace"\r\n'
        return b"allow: %s\r\n" % self.allow.encode() if self.allow else b""

    def body(self) -> bytes:
        """Return the problem as the body of a response."""
        hint = self.hint or _HINTS.get(self.code, _RECORD_HINT)
        return msgspec.json.encode(
            {
                "status": self.status,
                "code": self.code,
                "field": self.field,
                "detail": self.detail,
                "hint": hint,
                "error": self.detail,
            }
        )

    def item(self) -> bytes:
        """Return the problem as the answer to one record of many."""
        return msgspec.json.encode({"error": {"code": self.code, "field": self.field, "detail": self.detail}})


def of_refusal(refusal: Refusal) -> Problem:
    """Return the problem of a record that the stream would refuse, too."""
    code, field = refusal.code, refusal.field
    if code == "no_key":
        code = "missing_field"
    # A record that is too large is the record's own fault, and no matter of the request's size.
    return RecordProblem(code, refusal.message, field.removeprefix("features."))


class RecordProblem(Problem, frozen=True):
    """The fault of a record: its status is 400, whatever its code is."""

    @property
    def status(self) -> int:
        """The status of the response."""
        return 400

    def body(self) -> bytes:
        """Return the problem as the body of a response."""
        hint = self.hint or (_RECORD_HINT if self.code in CODES else "")
        return Problem.body(msgspec.structs.replace(self, hint=hint or _RECORD_HINT))
