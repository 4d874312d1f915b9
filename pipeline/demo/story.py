"""The demo from start to end: its acts, its exit code, and its clean-up."""

import contextlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from headrace.pipeline.demo import act
from headrace.pipeline.demo.phishing import phishing
from headrace.pipeline.demo.project import Project, is_ours
from headrace.pipeline.demo.screen import Screen
from headrace.pipeline.demo.stage import PATIENCE_S, ClaimFailed, Stage, projects, streaming
from headrace.pipeline.embedded import EmbeddedError, Stack
from headrace.pipeline.embedded.jars import KAFKA_VERSION
from headrace.pipeline.exit_code import EXIT_AWAY, EXIT_FAILED, EXIT_INTERRUPTED
from headrace.producers.writer import Feed
from headrace.state.store.health import probe
from headrace.state.store.store import Store

SECONDS_VARIABLE = "HEADRACE_DEMO_SECONDS"
"""The minimum duration of the act with the drift, in seconds."""

_SECONDS = 12.0
_COMPILING_S = 240.0
_KEEP_RATE = 20.0
_LOOK_S = 0.02
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def demo(*, keep: bool) -> int:
    """Run the demo and return the exit code: 0 only if every claim held. With `keep`, stay up until Ctrl-C."""
    # The settings of the user's own pipelines must not change those of the demo.
    for variable in [name for name in os.environ if is_ours(name)]:
        del os.environ[variable]
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    screen = Screen()
    try:
        _tell(screen, keep=keep)
    except KeyboardInterrupt:
        screen.say("interrupted; all started processes have ended")
        return EXIT_INTERRUPTED
    except Exception as error:
        # An error without a hint is a bug: the frame of all commands (`command.guard`) reports it.
        hint = getattr(error, "hint", None)
        if hint is None:
            raise
        screen.broke(str(error))
        sys.stderr.write(f"  → {hint}\n")
        return EXIT_AWAY if isinstance(error, EmbeddedError) else EXIT_FAILED
    finally:
        for number, handler in before.items():
            # After an interrupt both signals stay ignored: a second one must not interrupt the clean-up.
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, handler)
    return 0


def _tell(screen: Screen, *, keep: bool) -> None:
    screen.title("Headrace: a true story in about a minute, on a Kafka and a Valkey of its own")
    screen.act("Start")
    with _servers(screen) as stack, projects(stack) as (websites, payments):
        try:
            with _pipeline(screen, stack, websites, payments) as stage:
                _play(stage, websites)
                if keep:
                    with contextlib.suppress(KeyboardInterrupt):
                        _stay(stage)
        except BrokenPipeError:
            raise
        except Exception:
            screen.close_line()
            for line in (*websites.last_words(), *payments.last_words()):
                sys.stderr.write(f"{line}\n")
            raise


def _play(stage: Stage, websites: Project) -> None:
    screen = stage.screen
    phishing(screen, websites, exact=not stage.mock)
    _wait_until_ready(stage)
    act.drift(stage, seconds=float(os.environ.get(SECONDS_VARIABLE, _SECONDS)))
    act.bad_records(stage)
    act.outage(stage)
    if not stage.mock:
        act.crash(stage)
        act.replay(stage)
    act.finish(stage)
    act.total(stage)
    screen.title(f"\nAll of it held, in {screen.seconds:.0f} s.")
    if stage.mock:
        screen.say("not shown, as librdkafka's mock broker knows no transactions: exactly-once, a crash, a replay")
    _next(screen)


@contextlib.contextmanager
def _servers(screen: Screen) -> Iterator[Stack]:
    """Start both servers, and print what they are. In the meantime another process fills numba's cache."""
    words = [sys.executable, "-c", "from headrace.pipeline.engine import columnar; columnar.warm()"]
    with (
        subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True) as compiling,  # noqa: S603 our own
        contextlib.ExitStack() as end,
        Stack(progress=screen.begin) as stack,
    ):
        end.callback(compiling.kill)
        screen.begin("compiling, once on a machine")
        # If this fails or takes very long, the workers compile themselves, or River runs the model.
        with contextlib.suppress(subprocess.TimeoutExpired):
            compiling.wait(_COMPILING_S)
        screen.end()
        addresses = stack.addresses
        store = probe(Store(addresses.redis, name="demo"), name="demo").server.capitalize()
        kafka = f"Apache Kafka {KAFKA_VERSION}" if addresses.kind == "kafka" else "the mock broker of librdkafka"
        screen.say(f"{store} at {addresses.redis}, {kafka} at {addresses.kafka}")
        yield stack


@contextlib.contextmanager
def _pipeline(screen: Screen, stack: Stack, websites: Project, payments: Project) -> Iterator[Stage]:
    """Start `headrace run` for the payments early, so that it is ready when its act begins."""
    run = payments.start("run")
    with streaming(payments) as (supply, stream, meter):
        steps = " | ".join(websites.build()().steps)
        screen.say(f"the model: {steps}, of River {importlib.metadata.version('river')}")
        yield Stage(screen, stack, websites, payments, supply, stream, meter, run)


def _wait_until_ready(stage: Stage) -> None:
    partitions = list(range(stage.fraud.config.topics.partitions))
    until = time.monotonic() + PATIENCE_S
    while stage.fraud.worker().get("partitions") != partitions:
        stage.check()
        if time.monotonic() > until:
            raise ClaimFailed(f"headrace run did not take over its partitions in {PATIENCE_S:.0f} s")
        time.sleep(_LOOK_S)
    stage.meter.start()


def _stay(stage: Stage) -> NoReturn:
    """Keep the pipeline running, with a few payments a second, until an interrupt."""
    screen, project = stage.screen, stage.fraud
    run, page = project.start("run"), project.start("page", "--port", "0", "--actions")
    feed = Feed(project.config.librdkafka, topic=project.config.topics.features, timeout_s=PATIENCE_S)
    screen.say()
    screen.say(f"It stays up, with {_KEEP_RATE:.0f} payments a second, until Ctrl-C. To look around:")
    for words in ("tail predictions -f", "status --watch", "dlq show", "model ls"):
        screen.command(f"{_command()} {words} -c {project.file}")
    supply, address = iter(stage.payments), ""
    while True:
        if not address and page.output.endswith("\n"):
            address = page.output.strip()
            screen.say(f"Or in a browser, live: {address}")
        payment = next(supply)
        feed.send(payment.value, payment.key)
        time.sleep(1 / _KEEP_RATE)
        if run.code is not None:
            raise ClaimFailed(f"headrace run ended with exit code {run.code}")


def _next(screen: Screen) -> None:
    screen.say()
    screen.say("Next, each in a terminal of its own:")
    for words, meaning in (
        ("init payments", "a project of your own"),
        ("up", "a Kafka and a Valkey to run it on"),
        ("run -c payments/headrace.toml", "the pipeline"),
    ):
        screen.command(f"{_command()} {words:<30} {meaning}")


def _command() -> str:
    """Return the command with which the user can call `headrace`."""
    name = Path(sys.argv[0]).name
    return sys.argv[0] if name == "headrace" and shutil.which(name) is None else "headrace"


def _interrupt(_number: int, _frame: Any) -> NoReturn:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
