"""The optional HTTP sink: each batch's predictions POSTed as JSON lines, before they are committed.

An HTTP server knows no transactions, so it may get a batch again after a crash; each line's `source` tells.
"""

import email.utils
import http
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote

import urllib3

# Too large is a batch, as a rule: its halves may be taken.
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
# A longer answer costs a new connection.
_READ_BYTES_MAX = 65_536


class WebhookAway(Exception):
    """Raised when the server can't take the batch for now. `after_s`: when it asked to be tried again."""

    status = 503
    hint = "nothing is lost: the pipeline waits for the HTTP sink and goes on by itself"

    def __init__(self, message: str, *, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Webhook:
    """POST predictions to `url`; `timeout_s` bounds each answer, in seconds.

    A user and password in the URL are sent as curl sends them. `conceal` keeps secrets out of the server's words.
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
        """Send lines and return those that were refused, by position, with the server's words.

        A batch that is refused as a whole is halved until the lines to blame are found. Raises WebhookAway.
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
        """Return None when the lines were taken, the server's words when they were refused. Raises WebhookAway."""
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
            # As a whole, before it is cut: half a secret would not be known.
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
    """Read the beginning of the answer's body, at least, and leave the rest: a server may let it drip for ever.

    A connection whose answer was read to its end is used again.
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
    """Read a Retry-After header (RFC 9110): seconds or a date; None when there is none that can be read.

    At most five minutes are granted: a date in a wrong year must not stop the stream.
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
