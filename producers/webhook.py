"""The optional HTTP sink: POSTs the predictions of each batch as JSON lines, before they are committed.

HTTP has no transactions: after a crash the server may get a batch again. It finds duplicates by the `source` of a line.
"""

import email.utils
import http
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote

import urllib3

# A server that finds a batch too large (413) may accept its halves.
_REFUSED = frozenset(
    {
        http.HTTPStatus.BAD_REQUEST,
        http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        http.HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
_RETRY_AFTER_MAX_S = 300.0
_WORDS_BYTES = 200
_CHUNK_BYTES = 4_096
# After a longer answer the connection is closed.
_READ_BYTES_MAX = 65_536


class WebhookAway(Exception):
    """Raised when the server can't accept the batch now. `after_s`: the wait that it asked for."""

    status = 503
    address_key = "sink.http.url"
    hint = "nothing is lost: the pipeline waits for the HTTP sink and goes on by itself"

    def __init__(self, message: str, *, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Webhook:
    """POST predictions to `url`, with `timeout_s` seconds for each answer.

    A user and password in the URL are sent as basic authentication. `conceal` removes secrets from the server's answer.
    """

    def __init__(
        self, url: str, *, headers: Mapping[str, str], timeout_s: float, conceal: Callable[[str], str] = str
    ) -> None:
        self._url = url
        self._conceal = conceal
        self._timeout_s = timeout_s
        self._headers = {"content-type": "application/x-ndjson", **headers}
        if not any(name.lower() == "authorization" for name in headers):
            self._headers |= _credentials(url)
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(total=timeout_s), retries=False, maxsize=1, block=True)

    def send(self, lines: Sequence[bytes]) -> dict[int, str]:
        """Send lines; return the refused ones by position, each with the server's message.

        A refused batch is halved until the wrong lines are found. Raises WebhookAway.
        """
        refusal = self.post(lines)
        if refusal is None:
            return {}
        if len(lines) == 1:
            return {0: refusal}
        middle = len(lines) // 2
        first, second = self.send(lines[:middle]), self.send(lines[middle:])
        return {**first, **{middle + position: words for position, words in second.items()}}

    def post(self, lines: Sequence[bytes]) -> str | None:
        """Return None when the lines were accepted, the server's message when not. Raises WebhookAway."""
        if not lines:
            return None
        until = time.monotonic() + self._timeout_s
        try:
            answer = self._pool.request(
                "POST",
                self._url,
                body=b"\n".join(lines) + b"\n",
                headers=self._headers,
                redirect=False,
                preload_content=False,
            )
            # Conceal before the cut: a secret that is cut in half would not be found.
            words = self._conceal(_words(answer, until=until)).encode()[:_WORDS_BYTES].decode(errors="ignore").strip()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise WebhookAway(f"the HTTP sink does not answer: {self._conceal(str(error))}") from error
        if http.HTTPStatus.OK <= answer.status < http.HTTPStatus.MULTIPLE_CHOICES:
            return None
        if answer.status in _REFUSED:
            return f"the HTTP sink answered {answer.status}: {words}"
        raise WebhookAway(
            f"the HTTP sink answered {answer.status}: {words}",
            after_s=retry_after_s(answer.headers.get("retry-after"), now_s=time.time()),
        )


def _words(answer: urllib3.BaseHTTPResponse, *, until: float) -> str:
    """Read the answer's body up to a size and a time: a server may send it for ever.

    The connection of an answer that was read to its end is reused.
    """
    words = b""
    while chunk := answer.read1(_CHUNK_BYTES):
        words += chunk
        if len(words) > _READ_BYTES_MAX or time.monotonic() > until:
            answer.close()
            break
    answer.release_conn()
    return words.decode(errors="replace")


def _credentials(url: str) -> dict[str, str]:
    credentials = urllib3.util.parse_url(url).auth
    if credentials is None:
        return {}
    return {"authorization": urllib3.util.make_headers(basic_auth=unquote(credentials))["authorization"]}


def retry_after_s(value: str | None, *, now_s: float) -> float | None:
    """Read a Retry-After header (RFC 9110), seconds or a date; None when it is missing or invalid.

    At most five minutes: a date in a wrong year must not stop the stream.
    """
    if value is None:
        return None
    try:
        wait = float(value)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(value).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return min(max(wait, 0.0), _RETRY_AFTER_MAX_S) if wait == wait else None  # noqa: PLR0124 not NaN
