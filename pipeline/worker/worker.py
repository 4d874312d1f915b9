"""One worker process: builds the parts, holds its ordinal, runs the loop, and ends with its parent.

Forked by `headrace run`, which has imported this module and made nothing of it: clients live in here only.
"""

import contextlib
import os
import platform
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog

from headrace.consumers.client_properties import SettingsRefused, session_s
from headrace.consumers.interleave import LogOffsets
from headrace.consumers.source import Source, SourceAway, SourceError, SourceLost
from headrace.consumers.topics import Topic, Topics
from headrace.pipeline import assembly, console, model_factory
from headrace.pipeline.config import config as configuration
from headrace.pipeline.config.config import Config, ConfigError
from headrace.pipeline.process import failpoint, ordinal
from headrace.pipeline.process.fork import EXIT_RAISED, CauseReporter
from headrace.pipeline.process.ordinal import OrdinalTaken
from headrace.pipeline.process.rundir import FolderRefused, RunDir
from headrace.pipeline.process.watchdog import EXIT_HUNG, Watchdog
from headrace.pipeline.recovery.consistency import StateError
from headrace.pipeline.recovery.topic_identity import TopicIdentity
from headrace.pipeline.storage import open_store
from headrace.pipeline.telemetry import Telemetry, configure_logs
from headrace.pipeline.worker.gate import BACKOFF_MAX_S, FloodGuard
from headrace.pipeline.worker.heartbeat import Peers
from headrace.pipeline.worker.parts import Given, Limits
from headrace.pipeline.worker.runner import Runner
from headrace.pipeline.worker.stop import FloodError, Stop
from headrace.pipeline.worker.takeover import OnLoss
from headrace.pipeline.worker.unowned_partitions import Notes, UnownedPartitions
from headrace.producers.record_size import SizeLimits
from headrace.producers.sink import PlainSink, Sink, SinkRefused, TransactionalSink
from headrace.state.models import learner
from headrace.state.store.roster import WORKERS_MAX, Roster
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreAway, StoreRefused

log = structlog.get_logger("headrace")

T = TypeVar("T")

EXIT_CONFIG = 78
EXIT_AWAY = 69
EXIT_STOPPED = 76

# Its calls are given five seconds each: what takes so much longer hangs.
_DEADLINE_S = 12.0
# Far above what the longest step of the loop may take before the group gives the worker up.
_SILENCE_S = 300.0
_FRAMES_MAX = 1_000
_END_S = 3.5
_WAIT_S = 0.2
# Longer than a dead worker's session may partitions be nobody's.
_VACANT_S = 5.0
_PATIENCES_MAX = 4


class Job(msgspec.Struct, frozen=True):
    """What the parent asks of a worker: which configuration, with which flags, and where to stop.

    `restarts` counts the workers that died in this one's place; `ordinal` is None where workers agree on theirs. The
    first worker of a run, `is_first`, logs what concerns the whole run.
    """

    config: str
    flags: dict[str, Any]
    until_end: bool
    on_loss: OnLoss
    ordinal: int | None = None
    restarts: int = 0
    is_first: bool = False


class AddressError(Exception):
    """Raised when an address is plainly wrong, so that no waiting helps."""

    status = 400
    hint = "check kafka.bootstrap_servers and redis.url"


class Worker:
    """Everything that one process needs for its part of the stream."""

    def __init__(self, config: Config, job: Job, at_work: Callable[[], None]) -> None:
        self._config = config
        self._job = job
        self._at_work = at_work
        self._stop = Stop()
        self._rundir = RunDir(config)
        poll_ms = float(config.librdkafka.get("max.poll.interval.ms", 0))
        self._watchdog = Watchdog(deadline_s=_DEADLINE_S, silence_s=max(_SILENCE_S, 2 * poll_ms / 1_000))
        self._telemetry = Telemetry()
        self._telemetry.restarts.set(job.restarts)
        self._reach = failpoint.from_environment()
        self._note: dict[str, Any] = {
            "token": uuid.uuid4().hex,
            "place": self._rundir.place(),
            "host": platform.node(),
            "pid": os.getpid(),
            "started_ms": time.time_ns() // 1_000_000,
            "restarts": job.restarts,
        }
        self._ordinal = -1
        self._lock: Any = None
        self._roster: Roster | None = None

    def run(self) -> bool:
        """Connect, waiting for what is away, then work; tell whether somebody asked it to stop.

        Raises what needs somebody's help.
        """
        signal.signal(signal.SIGTERM, self._asked_to_stop)
        signal.signal(signal.SIGINT, self._asked_to_stop)
        threading.Thread(target=self._end_with_parent, name="parent", daemon=True).start()
        config = self._config
        if not self._job.restarts:
            # A name may go with its server: once a worker has been at work, that is an outage.
            _resolve_hosts(config)
        store = open_store(config)
        models = model_factory.models(config, store)
        roster = Roster(store, name=config.name)
        self._take_ordinal(roster)
        self._roster = roster
        self._serve_metrics()
        topics = Topics({"log_level": 0, **config.librdkafka})
        topic = self._wait_for("kafka", lambda: _ensure(topics, config))
        ends = self._wait_for("kafka", lambda: self._find_ends(topic)) if self._job.until_end and topic else None
        if topic is not None and not self._stop.asked:
            if self._job.is_first and not self._job.restarts:
                assembly.tell_models(config, topic.partitions)
            mock = self._wait_for("kafka", topics.is_mock)
            runner = self._runner(
                topic=topic,
                topics=topics,
                models=models,
                store=store,
                roster=roster,
                ends=ends,
                transactional=not mock,
            )
            runner.run()
            if not runner.store_answers:
                # To ask it once more would hold up the end for nothing: the ordinal ends with its lease.
                return self._stop.asked
        self._leave(roster)
        return self._stop.asked

    def _runner(
        self,
        *,
        topic: Topic,
        models: model_factory.ModelFactory,
        store: Store,
        roster: Roster,
        ends: dict[int, LogOffsets] | None,
        topics: Topics,
        transactional: bool,
    ) -> Runner:
        config, dlq = self._config, self._config.dlq
        ask_limits = partial(assembly.size_limits, config, topics)
        limits = self._wait_for("kafka", ask_limits) or SizeLimits()
        given = Given(
            topic=topic,
            identity=TopicIdentity(topic, ask=topics.ids),
            engine=assembly.engine(config, batches=models.can.batches, limits=limits),
            models=models,
            sink=self._sink(limits, transactional=transactional),
            store=store,
            webhook=assembly.webhook(config),
            telemetry=self._telemetry,
            company=Peers(
                self._ordinal,
                self._announce,
                partial(self._hold, roster),
                UnownedPartitions(partitions=topic.partitions, patience_s=self._patience_s()),
            ),
            watchdog=self._watchdog,
            reach=self._reach,
            outputs=config.topics.outputs,
            ask_limits=ask_limits,
        )
        return Runner(
            given,
            make_source=self._source,
            flood=FloodGuard(window=dlq.flood_window, ratio=dlq.flood_ratio) if dlq.flood_guard else None,
            limits=Limits(
                config.batch.records_max,
                config.snapshot.interval,
                config.snapshot.records_max,
                self._job.on_loss,
                assembly.rules(config, default=models.default),
                config.mix.seconds,
                config.mix.records,
            ),
            stop=self._stop,
            at_work=self._at_work,
            ends=ends,
        )

    def _source(self, rebalanced: Callable[[Sequence[int], Sequence[int]], None]) -> Source:
        topics = self._config.topics
        return Source(
            self._clients(),
            group=self._config.name,
            topic=topics.features,
            rebalanced=rebalanced,
            labels=topics.labels,
        )

    def _patience_s(self) -> float:
        # Longer each time that a worker died here: what to leave the group does not mend must not shake it for ever.
        return (session_s(self._clients()) + _VACANT_S) * min(_PATIENCES_MAX, 1 + self._job.restarts)

    def _sink(self, limits: SizeLimits, *, transactional: bool) -> Sink:
        sink = self._any_sink(transactional=transactional)
        sink.batch_bytes_max = limits.batch
        return sink

    def _any_sink(self, *, transactional: bool) -> Sink:
        config = self._config
        names = config.topics
        if config.delivery.guarantee == "exactly-once" and transactional:
            return TransactionalSink(
                self._clients(),
                transactional_id=f"{config.name}-{self._ordinal}",
                outputs=names.outputs,
                features=names.features,
                labels=names.labels,
                deadline=self._watchdog.deadline,
                reach=self._reach,
            )
        if config.delivery.guarantee == "exactly-once":
            log.warning("the mock cluster knows no transactions: at-least-once, and nothing is kept")
        return PlainSink(self._clients(), outputs=names.outputs, deadline=self._watchdog.deadline, reach=self._reach)

    def _clients(self) -> dict[str, Any]:
        import logging  # noqa: PLC0415 librdkafka wants a logger of the standard library

        settings = {**self._config.librdkafka, "logger": logging.getLogger("librdkafka")}
        # A static member: one that is killed and started again has its partitions back without a rebalance, and
        # the broker that comes back waits for nobody's session. An empty name makes the member dynamic. So is one of
        # the newer protocol, where the broker turns a member back until the session of the one that died is over.
        newer = settings.get("group.protocol") == "consumer"
        member = settings.get("group.instance.id", "" if newer else self._config.name)
        settings["group.instance.id"] = f"{member}-{self._ordinal}" if member else ""
        return settings

    def _take_ordinal(self, roster: Roster) -> None:
        """Hold an ordinal of this worker's own, waiting for the store. Raises OrdinalTaken."""
        note, place = {**self._note, "state": "connecting", "reason": ""}, self._note["place"]

        def hold(number: int) -> bool | None:
            # What it waits for meanwhile is told in its own name.
            self._ordinal = number
            mine = {**note, "ordinal": number}
            return self._wait_for("store", lambda: roster.hold(number, mine, evict_place=place))

        taken = ordinal.take(
            self._rundir,
            roster,
            given=self._job.ordinal,
            among=range(WORKERS_MAX),
            hold=hold,
            stopped=lambda: self._stop.asked,
        )
        if taken is not None:
            self._ordinal, self._lock = taken

    def _announce(self, note: dict[str, Any]) -> None:
        self._rundir.write(self._ordinal, self._told(note))

    def _told(self, note: dict[str, Any]) -> dict[str, Any]:
        """Complete a note, and keep secrets out of the words in it: others read it."""
        whole = {**self._note, "ordinal": self._ordinal, **note}
        return {**whole, "reason": self._config.conceal(str(whole.get("reason", "")))}

    def _hold(self, roster: Roster, note: dict[str, Any]) -> Notes:
        # A store that was put back to an earlier time holds the note of the worker before this one, whose lock this
        # one has.
        place = self._note["place"]
        if not roster.hold(self._ordinal, self._told(note), evict_place=place):
            log.error("another worker holds this worker's ordinal; this one ends", ordinal=self._ordinal)
            os._exit(EXIT_HUNG)
        return roster.notes()

    def _leave(self, roster: Roster) -> None:
        try:
            roster.leave(self._ordinal, self._note["token"])
        except (StoreAway, StoreRefused):
            log.debug("the store is away; the ordinal ends with its lease")

    def _find_ends(self, topic: Topic) -> dict[int, LogOffsets]:
        labels = self._config.topics.labels
        source = self._source(lambda _came, _went: None)
        try:
            return {
                partition: end
                for partition in range(topic.partitions)
                if (end := _end_of(source, partition, labels=labels is not None)) != (-1, -1)
            }
        finally:
            source.close()

    def _wait_for(self, dependency: str, call: Callable[[], T]) -> T | None:
        """Call until the dependency answers, paused and saying why; None when asked to stop meanwhile."""
        wait_s, said = _WAIT_S, False
        while not self._stop.asked:
            try:
                return call()
            except (StoreAway, SourceAway) as error:
                if not said:
                    log.warning("paused", dependency=dependency, reason=str(error))
                said = True
                self._telemetry.set_state("paused")
                note = {"state": "paused", "reason": str(error), "partitions": []}
                self._announce(note)
                if dependency == "kafka" and self._roster is not None:
                    with contextlib.suppress(StoreAway):
                        self._hold(self._roster, note)
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
            self._telemetry.serve(metrics.host, metrics.port + self._ordinal)
        except OSError as error:
            log.warning("metrics are not served", port=metrics.port + self._ordinal, reason=str(error))

    def _asked_to_stop(self, _signal: int, _frame: Any) -> None:
        if not self._stop.asked:
            self._stop.asked = True
            # Even when something that is away holds up the clean end: the next start goes on all the same.
            self._watchdog.end_within(_END_S)

    def _end_with_parent(self) -> None:
        """Wait for the end of standard input, which the parent holds open, and stop as if asked to."""
        # Not through the buffered file: its lock can't be taken at exit while this thread waits in it.
        while os.read(0, 1):
            pass
        self._asked_to_stop(signal.SIGTERM, None)


def main(job: Job, tell: CauseReporter) -> int:
    """Run one worker as the parent says, and return its exit code; `tell` the parent when it has done some work."""
    # How deeply a record may be nested depends on how much of the stack is left; it must not on who calls.
    sys.setrecursionlimit(_FRAMES_MAX + len(traceback.extract_stack()))
    learner.reseed()
    try:
        config = configuration.load(Path(job.config), flags=job.flags)
        console.hide(config.conceal)
        configure_logs(level=config.log.level, style=config.log.format)
        stopped = Worker(config, job, tell).run()
    except (ConfigError, SettingsRefused, learner.ModelError) as error:
        return _fail(error, EXIT_CONFIG)
    except AddressError as error:
        return _fail(error, EXIT_AWAY)
    except (StateError, SourceError, SinkRefused, StoreRefused, FloodError, FolderRefused, OrdinalTaken) as error:
        return _fail(error, 1)
    except SourceLost as error:
        log.error("the worker ends, to be started again", reason=str(error))  # noqa: TRY400 the reason is all
        return EXIT_HUNG
    except BaseException as error:
        # Nobody foresaw it: the worker goes, its parent starts another, and the state is safe either way.
        if os.environ.get("HEADRACE_DEBUG"):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.error(  # noqa: TRY400 a traceback is for those who ask for it
            "worker failed", error=f"{type(error).__name__}: {error}", at=f"{place.filename}:{place.lineno}"
        )
        tell.died(error)
        return EXIT_RAISED
    return EXIT_STOPPED if stopped else 0


def _fail(error: Any, code: int) -> int:
    sys.stderr.write(f"headrace: {error}\n  → {error.hint}\n")
    return code


def _end_of(source: Source, partition: int, *, labels: bool) -> LogOffsets:
    """Return the ends of a partition's two logs, -1 where there is nothing to wait for."""
    logs = (False, True) if labels else (False,)
    marks = [source.watermarks(partition, labels=log) for log in logs]
    ends = [high if high > low else -1 for low, high in marks]
    return ends[0], ends[1] if labels else -1


def _ensure(topics: Topics, config: Config) -> Topic:
    return topics.ensure(**config.topics.wanted)


def _resolve_hosts(config: Config) -> None:
    """Raise AddressError when no broker's name, or not the store's, means anything to this machine."""
    brokers = [a.strip().rpartition(":")[0].strip("[]") for a in config.kafka.bootstrap_servers.split(",")]
    store = urlsplit(config.redis.url.get_secret_value())
    groups = [brokers] if store.scheme == "unix" else [brokers, [store.hostname or ""]]
    for hosts in groups:
        if not any(_resolves(host) for host in hosts):
            raise AddressError(f"no such host: {', '.join(hosts)}")


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
