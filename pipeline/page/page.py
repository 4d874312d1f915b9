"""`headrace page`: the live web page, served by a process of its own until Ctrl-C.

Nothing of it runs in the pipeline's workers, and it joins no group.
"""

import asyncio
import socket
import sys

import uvicorn

from headrace.pipeline.config.config import Config, ConfigError
from headrace.pipeline.console import data
from headrace.pipeline.page.actions import NAMES
from headrace.pipeline.page.app import PageApp
from headrace.pipeline.page.guard import Guard, Token
from headrace.pipeline.telemetry import configure_logs

_BACKLOG = 128
_STOP_S = 3
_KEEP_ALIVE_S = 75
# Headers and the address of a request; a question to the model is in its address.
_HEAD_BYTES_MAX = 131_072


class PortTaken(Exception):
    """Raised when the page can't listen on its address."""

    status = 503
    hint = "choose another port with --port, or set page.host and page.port"


class _Server(uvicorn.Server):
    """A server that ends the streams of events first: they would else keep a stop waiting."""

    def __init__(self, config: uvicorn.Config, app: PageApp) -> None:
        super().__init__(config)
        self._page = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._page.stop()
        await super().shutdown(sockets)


def page(config: Config, *, port: int | None = None, actions: bool = False) -> int:
    """Serve the page until an interrupt; return the exit code. Raises PortTaken, ConfigError."""
    configure_logs(level=config.log.level, style=config.log.format)
    token = Token.of(config) if actions or config.page.actions else None
    listener = _listen(config.page.host, config.page.port if port is None else port)
    host, bound = config.page.host, listener.getsockname()[1]
    app = PageApp(config, has_actions=token is not None)
    guard = Guard(host, bound, token=token, actions=NAMES)
    settings = uvicorn.Config(
        app.routed(guard),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_S,
        h11_max_incomplete_event_size=_HEAD_BYTES_MAX,
    )
    _tell(host, bound, token)
    with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:
        runner.run(_serve(_Server(settings, app), app, listener))
    return 0


async def _serve(server: _Server, app: PageApp, listener: socket.socket) -> None:
    app.start(asyncio.get_running_loop())
    await server.serve(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(f"page.host = {host!r} is no address: {error.strerror}", hint="correct page.host") from error
    try:
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise PortTaken(f"the page can't listen on {host}:{port}: {error.strerror}") from error


def _tell(host: str, port: int, token: Token | None) -> None:
    """Print the address, with the token if it was drawn: a browser keeps what follows the # to itself."""
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}/"
    drawn = "" if token is None else token.drawn
    data.write(f"{address}#token={drawn}\n" if drawn else f"{address}\n")
    data.flush()
    if token is not None:
        where = "the token in this address" if drawn else "the token of page.token_file"
        sys.stderr.write(f"actions are on: whoever has {where} can replay dead letters\n")
