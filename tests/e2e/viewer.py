"""A running `headrace page`, its requests by hand, and a browser that looks at it."""

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import browser
from harness import Project, nursery, wait_until
from nursery import Forked
from playwright.sync_api import Page, sync_playwright

TOKEN = "a token of the tests"
LIVE_S = 60_000.0


@dataclass
class Served:
    """A running page."""

    address: str
    process: Forked
    log_file: Path

    @property
    def host(self) -> str:
        return urlsplit(self.address).netloc

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")[-6_000:]

    def ask(
        self, path: str, *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send one request as it is given; return the status and the JSON of the answer."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, body=text, headers=headers or {})
            answer = connection.getresponse()
            content = answer.read()
            try:
                return answer.status, json.loads(content or b"null")
            except ValueError:
                return answer.status, content
        finally:
            connection.close()

    def act(self, name: str, order: Any) -> tuple[int, Any]:
        return self.ask(f"/actions/{name}", method="POST", body=order, headers={"authorization": f"Bearer {TOKEN}"})

    def frame(self) -> Any:
        return self.ask("/api/frame")[1]


@contextlib.contextmanager
def serving(project: Project, *words: str) -> Iterator[Served]:
    out = project.directory / f"page-{len(list(project.directory.glob('page-*.out')))}.out"
    log_file = out.with_suffix(".log")
    (project.directory / "token").write_text(TOKEN + "\n")
    env = {**project.env, "HEADRACE__PAGE__TOKEN_FILE": "token"}
    with out.open("wb") as told, log_file.open("wb") as log:
        command = ["page", "--port", "0", *words, "-c", str(project.file)]
        process = nursery().start(command, env=env, stdout=told, stderr=log)
        try:
            wait_until(lambda: out.read_text().endswith("\n"), what="the page to tell its address", timeout_s=60)
            served = Served(out.read_text().strip().partition("#")[0], process, log_file)
            wait_until(lambda: _has_frame(served), what="the first frame", timeout_s=60)
            yield served
        finally:
            process.terminate()
            code = process.wait(20)
            assert code == 0, log_file.read_text()


def _has_frame(served: Served) -> bool:
    with contextlib.suppress(OSError):
        return bool(served.frame())
    return False


@dataclass
class Sight:
    """One open page, with all that it asked for and all that went wrong in it."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.page.locator("html[data-frame]").wait_for(state="attached", timeout=LIVE_S)

    def number(self) -> int:
        return int(self.page.locator("html").get_attribute("data-frame") or 0)

    def wait(self, condition: Any, *, what: str, timeout_s: float = 30.0) -> None:
        """Wait for a condition while the browser goes on; the page's own rules forbid to wait inside it."""
        until = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until, f"waited {timeout_s:.0f} s for {what}"
            self.page.wait_for_timeout(100)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    with sync_playwright() as playwright, browser.chromium(playwright) as started:
        yield started


@contextlib.contextmanager
def sight(started: Any, **options: Any) -> Iterator[Sight]:
    """Open a window of its own; fail at the end if anything in it went wrong."""
    context = started.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 900}, **options})
    try:
        yield watch(context.new_page())
    finally:
        context.close()


def watch(page: Page) -> Sight:
    seen = Sight(page)
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda message: message.type == "error" and seen.errors.append(message.text))
    return seen


def violations(page: Page) -> list[str]:
    """Return what axe-core finds against the rules of accessibility."""
    script = browser.axe()
    assert script is not None, f"axe-core is not there: {browser.ADVICE}"
    # Not as a script of the page, whose own rules forbid it.
    page.evaluate(script.read_text() + "\n;0")
    found = page.evaluate("async () => (await axe.run()).violations.map((v) => [v.id, v.nodes.map((n) => n.html)])")
    return [f"{rule}: {'; '.join(nodes)[:400]}" for rule, nodes in found]
