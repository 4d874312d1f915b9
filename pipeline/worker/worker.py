"""One worker process: takes an ordinal, connects, runs the loop, and ends with its parent.

Forked by `headrace run`, which has imported this module and made no object of it: clients live in this process only.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from headrace.consumers.client_properties import SettingsRefused, TokenMissing, session_s
from headrace.consumers.formats.registry import ExtraMissing, RegistryAway, RegistryRefused, SchemaRefused
from headrace.consumers.source import SourceAway, SourceError, SourceLost
from headrace.consumers.topics import Topic, Topics
from headrace.pipeline import assembly, connection, console, formats, model_factory
from headrace.pipeline.config import config as configuration
from headrace.pipeline.config.config import Config, ConfigError
from headrace.pipeline.connection import ConnectionExplained
from headrace.pipeline.control import control_topics
from headrace.pipeline.control.control_topics import ControlTopics
from headrace.pipeline.exit_code import (
    EXIT_AWAY,
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_HUNG,
    EXIT_OF_STATUS,
    EXIT_RAISED,
    EXIT_STOPPED,
)
from headrace.pipeline.process import failpoint
from headrace.pipeline.process.fork import CauseReporter
from headrace.pipeline.process.ordinal import Ordinal, OrdinalTaken
from headrace.pipeline.process.rundir import FolderRefused, RunDir
from headrace.pipeline.process.watchdog import Watchdog
from headrace.pipeline.recovery import survey
from headrace.pipeline.recovery.consistency import StateError, gone
from headrace.pipeline.storage import open_store
from headrace.pipeline.telemetry import Telemetry, configure_logs
from headrace.pipeline.worker.breakers import BACKOFF_MAX_S
from headrace.pipeline.worker.completion import find_ends
from headrace.pipeline.worker.flood import FloodError
from headrace.pipeline.worker.runner import Stop
from headrace.pipeline.worker.takeover import OnLoss
from headrace.pipeline.worker.wiring import Wiring
from headrace.producers.output import JOURNAL
from headrace.producers.record_size import SizeLimits
from headrace.producers.sink import Sink, SinkRefused
from headrace.state.models import learner
from headrace.state.models.task import ModelError
from headrace.state.store.address import parse
from headrace.state.store.roster import Roster
from headrace.state.store.store_errors import StoreAway, StoreLoginRefused, StoreRefused

log = structlog.get_logger("headrace")

T = TypeVar("T")

# Errors that a person must handle, and that no configuration mends.
_FATAL = (
    StateError, SourceError, SinkRefused, SchemaRefused, RegistryRefused, StoreRefused, FloodError, FolderRefused,
    OrdinalTaken, ConnectionExplained,
)  # fmt: skip


# The clients' calls are given five seconds each: one that takes this long hangs.
_DEADLINE_S = 12.0
# Far above the longest step of the loop, after which the group gives the worker up.
_SILENCE_S = 300.0
_FRAMES_MAX = 1_000
_LOGIN_REFUSED = 401
_END_S = 3.5
_WAIT_S = 0.2
# After a worker has died, its partitions have no owner for its session, and for a rebalance.
_REBALANCE_S = 5.0
_PATIENCES_MAX = 4


class Job(msgspec.Struct, frozen=True):
    """What the parent asks of a worker: which configuration, with which flags, and where to stop.

    `restarts` counts the workers that died in this one's place; `ordinal` is None where the workers choose their own.
    The first worker of a run, `is_first`, logs what concerns the whole run. One that `replaces` another, which died or
    was asked to make room, waits for a server that refuses it: that server has let the other one in.
    """

    config: str
    flags: dict[str, Any]
    until_end: bool
    on_loss: OnLoss
    ordinal: int | None = None
    restarts: int = 0
    is_first: bool = False
    replaces: bool = False


class AddressError(Exception):
    """Raised when an address is wrong, so that it makes no sense to wait."""

    status = 503
    hint = "check kafka.bootstrap_servers and redis.url"


class Worker:
    """The process of one worker, until its loop ends. `at_work` is called when a batch is confirmed."""

    def __init__(self, config: Config, job: Job, at_work: Callable[[], None]) -> None:
        self._config = config
        self._job = job
        self._at_work = at_work
        self._stop = Stop()
        poll_ms = float(config.librdkafka.get("max.poll.interval.ms", 0))
        self._watchdog = Watchdog(deadline_s=_DEADLINE_S, silence_s=max(_SILENCE_S, 2 * poll_ms / 1_000))
        self._telemetry = Telemetry()
        self._telemetry.restarts.set(job.restarts)
        self._reach = failpoint.from_environment()
        self._store = open_store(config)
        roster = Roster(self._store, name=config.name)
        self._ordinal = Ordinal(RunDir(config), roster, conceal=config.conceal, restarts=job.restarts)

    def run(self) -> bool:
        """Connect, wait for dependencies that are away, then run the loop; return whether a stop was asked for.

        Raises errors that a person must handle.
        """
        signal.signal(signal.SIGTERM, self._asked_to_stop)
        signal.signal(signal.SIGINT, self._asked_to_stop)
        threading.Thread(target=self._end_with_parent, name="parent", daemon=True).start()
        if not self._job.replaces:
            # The name of a server may disappear with the server: for a worker that was at work, that is an outage.
            _resolve_hosts(self._config)
        models = model_factory.models(self._config, self._store)
        self._ordinal.take(
            given=self._job.ordinal,
            wait_for=partial(self._wait_for, "store"),
            stopped=lambda: self._stop.asked,
        )
        structlog.contextvars.bind_contextvars(worker=self._ordinal.number)
        self._serve_metrics()
        wiring = self._connect(models)
        if wiring is not None:
            wiring.runner.run()
            if wiring.breakers.gate.breakers["store"].tripped:
                # One more call to it would hold up the end for nothing: the ordinal ends with its lease.
                return self._stop.asked
        self._ordinal.leave()
        return self._stop.asked

    def _connect(self, models: model_factory.ModelFactory) -> Wiring | None:
        """Ask Kafka what the loop must know, waiting for it; None when asked to stop meanwhile."""
        config = self._config
        topics = self._wait_for("kafka", lambda: Topics({"log_level": 0, **config.librdkafka}))
        if topics is None or self._wait_for("kafka", topics.reach) is None:
            return None
        ensured = self._wait_for("kafka", lambda: self._ensure(topics))
        if ensured is None:
            return None
        topic, control = ensured
        properties = assembly.client_properties(config, self._ordinal.number)
        source = partial(assembly.source, config, properties)
        encoder = self._wait_for("registry", partial(formats.prediction_encoder, config, models.task, self._store))
        ends = self._wait_for("kafka", lambda: find_ends(source(), topic)) if self._job.until_end else None
        reading = self._wait_for("kafka", source)
        if reading is None or self._stop.asked:
            return None
        ask_limits = partial(assembly.size_limits, config, topics)
        limits = self._wait_for("kafka", ask_limits) or SizeLimits()
        return Wiring(
            config=config,
            topic=topic,
            control=control,
            ask_ids=topics.ids,
            ask_limits=ask_limits,
            limits=limits,
            source=reading,
            sink=self._sink(properties, control, is_mock=bool(self._wait_for("kafka", topics.is_mock)), limits=limits),
            models=models,
            encode=None if encoder is None else encoder.encode,
            store=self._store,
            ordinal=self._ordinal,
            unowned_s=self._unowned_s(properties),
            on_loss=self._job.on_loss,
            ends=ends,
            telemetry=self._telemetry,
            watchdog=self._watchdog,
            stop=self._stop,
            reach=self._reach,
            at_work=self._at_work,
        )

    def _ensure(self, topics: Topics) -> tuple[Topic, ControlTopics]:
        """Create the topics that are missing, but not a features topic that a model was taught from."""
        names = self._config.topics
        if self._job.on_loss != "fresh" and names.features not in topics.partitions() and self._was_taught():
            raise gone("features", names.features)
        topic = topics.ensure(**names.wanted, on_created=self._tell_created)
        return topic, self._ensure_control(topics, topic)

    def _ensure_control(self, topics: Topics, topic: Topic) -> ControlTopics:
        """Create the topics of the commands and the journal; say once a run what holds for them, and for the models."""
        config, partitions = self._config, topic.partitions
        control = control_topics.ensure(config, topics, partitions=partitions, on_created=self._tell_created)
        if self._job.is_first and not self._job.replaces:
            assembly.tell_models(config, partitions)
            control_topics.tell(control, guarantee=config.delivery.guarantee)
        return control

    def _tell_created(self, topic: str) -> None:
        with contextlib.suppress(StoreAway):
            if topic in self._config.topics.outputs.values() and self._was_taught():
                words = "an output topic did not exist and was created: what was sent to it before is gone"
                log.warning(words, topic=topic)
                return
        log.info("topic created", topic=topic)

    def _was_taught(self) -> bool:
        """Tell whether the store has a model that was taught from the features topic. Raises StoreAway."""
        topics = self._config.topics
        saved = (survey.saved(self._store, partition) for partition in range(topics.partitions))
        return any(snapshot is not None and snapshot.topic == topics.features for snapshot in saved)

    def _sink(self, properties: dict[str, Any], control: ControlTopics, *, is_mock: bool, limits: SizeLimits) -> Sink:
        outputs = self._config.topics.outputs
        return assembly.sink(
            self._config,
            properties,
            outputs=outputs if control.fault else {**outputs, JOURNAL: control.journal},
            ordinal=self._ordinal.number,
            is_mock=is_mock,
            limits=limits,
            deadline=self._watchdog.deadline,
            reach=self._reach,
        )

    def _unowned_s(self, properties: dict[str, Any]) -> float:
        # Longer with each worker that has died here: if leaving the group is no cure, it must not go on for ever.
        return (session_s(properties) + _REBALANCE_S) * min(_PATIENCES_MAX, 1 + self._job.restarts)

    def _wait_for(self, dependency: str, call: Callable[[], T]) -> T | None:
        """Call until the dependency answers, paused and saying why; None when asked to stop meanwhile."""
        wait_s, said = _WAIT_S, False
        while not self._stop.asked:
            try:
                return call()
            except (StoreAway, StoreLoginRefused, SourceAway, TokenMissing, RegistryAway) as error:
                explained = connection.explained(error, self._config)
                if getattr(explained, "status", 0) == _LOGIN_REFUSED and not self._job.replaces:
                    raise explained from error
                reason = str(explained)
                if not said:
                    log.warning("waiting", dependency=dependency, reason=reason)
                said = True
                self._telemetry.set_state("paused")
                note = {"state": "paused", "reason": reason, "partitions": []}
                self._ordinal.announce(note)
                if not isinstance(error, StoreAway):
                    with contextlib.suppress(StoreAway):
                        self._ordinal.renew(note)
            self._nap(wait_s)
            wait_s = min(BACKOFF_MAX_S, wait_s * 2)
        return None

    def _nap(self, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        while not self._stop.asked and time.monotonic() < until:
            time.sleep(0.05)

    def _serve_metrics(self) -> None:
        metrics = self._config.metrics
        if not metrics.port:
            return
        try:
            self._telemetry.serve(metrics.host, metrics.port + self._ordinal.number)
        except OSError as error:
            log.warning("metrics are not served", port=metrics.port + self._ordinal.number, reason=str(error))

    def _asked_to_stop(self, _signal: int, _frame: Any) -> None:
        if not self._stop.asked:
            self._stop.asked = True
            # A dependency that is away may delay the clean end; the next start continues from the same offsets.
            self._watchdog.end_within(_END_S)

    def _end_with_parent(self) -> None:
        """Wait until the parent closes standard input, and then ask the loop to stop."""
        # Read the descriptor itself: the interpreter needs the lock of the buffered file at exit.
        while os.read(0, 1):
            pass
        self._asked_to_stop(signal.SIGTERM, None)


def main(job: Job, tell: CauseReporter) -> int:
    """Run one worker as the parent says, and return its exit code; `tell` the parent when it has done some work."""
    # The remaining stack bounds the nesting of a record, so it must not depend on the caller.
    sys.setrecursionlimit(_FRAMES_MAX + len(traceback.extract_stack()))
    learner.reseed()
    try:
        config = configuration.load(Path(job.config), flags=job.flags)
        console.hide(config.conceal)
        configure_logs(level=config.log.level, style=config.log.format)
        stopped = Worker(config, job, tell).run()
    except (ConfigError, SettingsRefused, ModelError) as error:
        return _fail(error, EXIT_CONFIG)
    except (AddressError, ExtraMissing) as error:
        return _fail(error, EXIT_AWAY)
    except _FATAL as error:
        explained: Any = connection.explained(error, config)
        return _fail(explained, EXIT_OF_STATUS.get(explained.status, EXIT_FAILED))
    except SourceLost as error:
        log.error("the worker ends, to be started again", reason=str(error))  # noqa: TRY400 the reason is all
        return EXIT_HUNG
    except BaseException as error:
        # Nobody foresaw it: the worker goes, its parent starts another, and the state is safe either way.
        if os.environ.get("HEADRACE_DEBUG"):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.error(  # noqa: TRY400 a traceback is printed only if it was asked for
            "worker failed", error=f"{type(error).__name__}: {error}", at=f"{place.filename}:{place.lineno}"
        )
        tell.died(error)
        return EXIT_RAISED
    return EXIT_STOPPED if stopped else 0


def _fail(error: Any, code: int) -> int:
    console.complain(str(error), error.hint)
    return code


def _resolve_hosts(config: Config) -> None:
    """Raise AddressError when no broker's name, or not the store's, means anything to this machine."""
    brokers = [a.strip().rpartition(":")[0].strip("[]") for a in config.kafka.bootstrap_servers.split(",")]
    stores = [host for host, _ in parse(config.redis.url.get_secret_value()).hosts]
    for key, hosts in (("kafka.bootstrap_servers", brokers), ("redis.url", stores)):
        if hosts and not any(_resolves(host) for host in hosts):
            raise AddressError(f"no such host: {', '.join(hosts)} ({key})")


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
