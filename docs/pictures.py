"""Takes the pictures of the live page for the README, with a real stream, page and Chromium: `make pictures`.

With `--all FOLDER` it takes every state of the page (empty, busy, paused, a model whose quality falls, many partitions)
at four widths, light and dark, for people to look at.
"""  # noqa: INP001 a script that stands alone

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))

import browser  # noqa: E402 it lies in the folder of the tests
from confluent_kafka import Producer  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

from headrace.pipeline.embedded import Stack  # noqa: E402

WIDTHS = (320, 768, 1280, 1920)
COUNTRIES = ("NO", "DE", "FR", "SE", "US", "NG")
BUSY_S = 60.0
RATE = 200
WAIT_MS = 60_000
LATE = 60
FEW = 0.7


class Payments:
    """Made-up payments; `turned` turns their labels round, as a change in the world does."""

    def __init__(self, kafka: str, topic: str) -> None:
        self._producer = Producer({"bootstrap.servers": kafka, "linger.ms": 5})
        self._topic = topic
        self._rng = random.Random(7)  # noqa: S311 payments are no secret
        self._count = 0
        self.turned = False

    def send(self, seconds: float, *, rate: float = RATE) -> None:
        """Send for some seconds."""
        started, first = time.monotonic(), self._count
        while time.monotonic() - started < seconds:
            self._producer.produce(self._topic, self._value(), key=f"c-{self._rng.randrange(400)}".encode())
            self._producer.poll(0)
            self._count += 1
            time.sleep(max(0.0, started + (self._count - first) / rate - time.monotonic()))
        self._producer.flush(30)

    def _value(self) -> bytes:
        rng = self._rng
        amount, hour = round(rng.lognormvariate(3, 1), 2), rng.randrange(24)
        country, known = rng.choice(COUNTRIES), rng.random() < FEW
        bad = (amount > LATE) + (hour < 5) + (country in {"US", "NG"}) + (not known) >= 2  # noqa: PLR2004 two signs
        features: dict[str, Any] = {"amount": amount, "hour": hour, "country": country, "known_device": known}
        whole: dict[str, Any] = {"id": f"t-{self._count}", "features": features, "label": bad != self.turned}
        fault = rng.random()
        if fault < 0.004:  # noqa: PLR2004 some records are bad
            features["amount"] = f"{amount} EUR", "?"
        elif fault < 0.006:  # noqa: PLR2004
            del whole["features"]
        return json.dumps(whole).encode()


@contextlib.contextmanager
def headrace(folder: Path, env: dict[str, str], *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the folder of the project."""
    command = [sys.executable, "-m", "headrace", *words]
    with (folder / f"{words[0]}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: S603
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


class Camera:
    """Takes pictures of one page."""

    def __init__(self, started: Any, address: str) -> None:
        self._started = started
        self._address = address
        # The page looks each second only while somebody looks at it.
        started.new_context(locale="en-US").new_page().goto(address)

    def take(self, file: Path, *, width: int, scheme: str, whole: bool, height: int = 1000) -> None:
        """Open the page in a window of this width, open a dead letter, ask the model, and take a picture."""
        size = {"width": width, "height": height}
        context = self._started.new_context(locale="en-US", viewport=size, color_scheme=scheme)
        page = context.new_page()
        page.goto(self._address)
        page.locator("html[data-frame]").wait_for(state="attached", timeout=WAIT_MS)
        page.wait_for_timeout(4_000)
        if whole:
            for button in ("#letter-list button", "#ask-send"):
                if page.locator(button).first.is_visible():
                    page.locator(button).first.click()
            page.wait_for_timeout(3_000)
            page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=str(file), full_page=whole)
        context.close()


def main(arguments: list[str]) -> int:
    """Take the pictures; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", type=Path, metavar="FOLDER")
    parser.add_argument("--partitions", type=int, default=4)
    given = parser.parse_args(arguments)
    browser.ready()
    with tempfile.TemporaryDirectory() as scratch, Stack() as stack, sync_playwright() as playwright:
        folder = Path(scratch) / "fraud"
        env = {
            **os.environ,
            "HEADRACE__KAFKA__BOOTSTRAP_SERVERS": stack.addresses.kafka,
            "HEADRACE__REDIS__URL": stack.addresses.redis,
            "HEADRACE__TOPICS__PARTITIONS": str(given.partitions),
        }
        subprocess.run([sys.executable, "-m", "headrace", "init", str(folder)], env=env, check=True)  # noqa: S603
        with (
            browser.chromium(playwright) as started,
            headrace(folder, env, "page", "--port", "0", "--actions") as page,
        ):
            assert page.stdout is not None
            camera = Camera(started, page.stdout.readline().strip())
            if given.all is None:
                _for_the_readme(camera, folder, env, stack)
            else:
                given.all.mkdir(parents=True, exist_ok=True)
                _all(camera, given.all, folder, env, stack)
    return 0


def _for_the_readme(camera: Camera, folder: Path, env: dict[str, str], stack: Stack) -> None:
    with headrace(folder, env, "run", "--workers", "2"):
        payments = _feed(stack, 1)
        feed = threading.Thread(target=payments.send, args=(BUSY_S + 15,))
        feed.start()
        time.sleep(BUSY_S)
        (DOCS / "pictures").mkdir(exist_ok=True)
        camera.take(DOCS / "pictures" / "page.png", width=1280, scheme="light", whole=False)
        feed.join()


def _all(camera: Camera, into: Path, folder: Path, env: dict[str, str], stack: Stack) -> None:
    def take(state: str, *, whole: bool) -> None:
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                camera.take(into / f"{state}-{width}-{scheme}.png", width=width, scheme=scheme, whole=whole)

    take("empty", whole=True)
    with headrace(folder, env, "run", "--workers", "2"):
        payments = _feed(stack, BUSY_S)
        take("busy", whole=True)
        payments.turned = True
        payments.send(BUSY_S / 2)
        take("falling", whole=False)
        stack.store.freeze()
        try:
            payments.send(10)
            take("paused", whole=False)
        finally:
            stack.store.thaw()


def _feed(stack: Stack, seconds: float) -> Payments:
    """Send payments once the topic is there."""
    payments = Payments(stack.addresses.kafka, "features")
    probe = Producer({"bootstrap.servers": stack.addresses.kafka})
    until = time.monotonic() + 120
    while "features" not in probe.list_topics(timeout=5).topics:
        assert time.monotonic() < until, "the topic is there"
        time.sleep(0.5)
    payments.send(seconds)
    return payments


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
