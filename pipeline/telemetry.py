"""The metrics, each with its name, unit and meaning, and the configuration of the logs."""

import logging
import sys
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace.pipeline.metrics_server import MetricsServer

_STATES = ("connecting", "running", "paused", "relearning")
_BATCH_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0)
_DELAY_BUCKETS = (0.1, 1.0, 10.0, 60.0, 300.0, 1_800.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0, 604_800.0)


class Telemetry:
    """The metrics of one worker. Names keep Prometheus's rules: base units, `_total` on counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.records = counter("records", "Records predicted, dead_lettered and skipped.", ["outcome"])
        self.output_records = counter("output_records", "Records sent to the topic of each output.", ["output"])
        self.dead_letters = counter("dead_letters", "Records refused, by code.", ["code"])
        self.replayed = counter("replayed", "Records that a replay of dead letters has sent.")
        self.learned = counter("learned", "Labelled records learned.")
        self.times_ahead = counter("times_ahead", "Records whose event time is too far in the future to count.")
        self.relearned = counter("relearned", "Records learned again after a restart, without output.")
        self.batch_seconds = histogram("batch_seconds", "Time of a batch in each stage.", ["stage"])
        self.latency_seconds = histogram(
            "latency_seconds", "Time from the newest record of a batch to the commit of its prediction."
        )
        self.state = gauge("state", "1 for the worker's current state, 0 for the others.", ["state"])
        self.paused_seconds = counter("paused_seconds", "Time for which the stream was paused, by reason.", ["why"])
        self.failures = counter("failures", "Failed calls that are retried, by dependency.", ["dependency"])
        self.offset = gauge("committed_offset", "Committed offset: the next record to handle.", ["partition"])
        self.snapshot_offset = gauge("snapshot_offset", "Offset of the newest snapshot.", ["partition"])
        self.version = gauge("model_version", "Newest version of the model in the store.", ["partition"])
        self.quality = gauge("model_quality", "Quality of the predictions, by measure.", ["partition", "measure"])
        self.epoch = gauge("epoch", "Number of the partition's owner; each takeover raises it.", ["partition"])
        self.snapshots = counter("snapshots", "Snapshots by result: saved, fenced or failed.", ["result"])
        self.snapshot_bytes = gauge("snapshot_bytes", "Size of the newest snapshot.", ["partition"])
        self.snapshot_seconds = histogram("snapshot_seconds", "Time for which a snapshot stopped the stream.")
        self.takeovers = counter("takeovers", "Partitions taken over.")
        self.stale_batches = counter("stale_batches", "Batches dropped because their partitions had moved.")
        self.aborts = gauge("transaction_aborts", "Transactions aborted since the worker started.")
        self.transaction_seconds = gauge("transaction_age_seconds", "Age of the open transaction, or 0.")
        self.restarts = gauge("worker_restarts", "Restarts of this worker after it died.")
        self.state_losses = counter("state_losses", "Takeovers at which the store lacked models that Kafka knows of.")
        self.relearn_remaining = gauge("relearn_remaining", "Records left to relearn.", ["partition"])
        self.relearn_rate = gauge("relearn_records_per_second", "Speed of the current relearning.")
        self.retention_slack = gauge(
            "retention_slack_records", "Records that the log still has before the newest snapshot.", ["partition"]
        )
        self._make_lag()
        self._make_labels()
        self._make_mixes()
        self._begin_at_zero()
        self.unknown_outcomes = counter("unknown_outcomes", "Transactions whose outcome was read from the offsets.")

    def _make_mixes(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.mixes = counter("mixes", "Merges into the shared model, by result: mixed, pulled or refused.", ["result"])
        self.mixed = counter("mixed_examples", "Examples that this worker added to the shared model.")
        self.mix_seconds = histogram("mix_seconds", "Time of one merge.")
        self.mix_version = gauge("mix_version", "Version of the shared model that this worker's copy started from.")

    def _make_lag(self) -> None:
        self.lag_records = self._gauge("lag_records", "Records that are not handled yet.", ["partition", "topic"])
        self.lag_seconds = self._gauge(
            "lag_seconds",
            "Time for which the oldest of them has waited since the worker saw it.",
            ["partition", "topic"],
        )

    def _make_labels(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.labels = counter("labels", "Records of the labels topic handled.")
        self.label_delay = histogram(
            "label_delay_seconds", "Event time between features and their label.", buckets=_DELAY_BUCKETS
        )
        self.labels_waiting = gauge(
            "labels_waiting",
            "Features that wait for a label (asked), and labels that wait for features (early).",
            ["partition", "what"],
        )
        self.labels_waiting_bytes = gauge(
            "labels_waiting_bytes", "Memory of the waiting features and labels.", ["partition"]
        )
        self.labels_outcome = gauge(
            "labels_outcome", "Labels and features by outcome, since the first record.", ["partition", "outcome"]
        )
        self.labelled_share = gauge(
            "labelled_share", "Share of the features that got a label, of those whose wait is over.", ["partition"]
        )
        self.labels_offset = gauge("labels_committed_offset", "Committed offset of the labels topic.", ["partition"])
        self.version_quality = gauge(
            "model_version_quality",
            "Mean score of the predictions of a model version.",
            ["partition", "version"],
        )

    def _begin_at_zero(self) -> None:
        """Show the counts of what has not happened yet: Prometheus sees no increase to the first value of a series."""
        for counter, values in (
            (self.records, ("predicted", "dead_lettered", "skipped")),
            (self.paused_seconds, ("away", "flood", "registry")),
            (self.failures, ("kafka", "store", "sink", "registry")),
            (self.snapshots, ("saved", "fenced", "failed")),
            (self.mixes, ("mixed", "pulled", "refused")),
        ):
            for value in values:
                counter.labels(value)

    def note_labels(self, labels: int, delays_ms: list[int]) -> None:
        """Count handled labels, and observe their delays."""
        self.labels.inc(labels)
        for delay_ms in delays_ms:
            self.label_delay.observe(delay_ms / 1_000)

    def set_state(self, state: str) -> None:
        """Show the worker's state."""
        for name in _STATES:
            self.state.labels(name).set(name == state)

    def forget(self, partition: int) -> None:
        """Remove a partition that another worker has now."""
        for gauge in (
            self.offset,
            self.lag_records,
            self.lag_seconds,
            self.snapshot_offset,
            self.version,
            self.quality,
            self.epoch,
            self.snapshot_bytes,
            self.relearn_remaining,
            self.retention_slack,
            self.labels_waiting,
            self.labels_waiting_bytes,
            self.labels_outcome,
            self.labelled_share,
            self.labels_offset,
            self.version_quality,
        ):
            gauge.remove_by_labels({"partition": str(partition)})

    def serve(self, host: str, port: int) -> None:
        """Serve the metrics over HTTP. Raises OSError when the port is taken."""
        MetricsServer(self.registry, host, port)

    def _counter(self, name: str, meaning: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"headrace_{name}", meaning, labels or [], registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(f"headrace_{name}", meaning, labels or [], registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, labels: list[str] | None = None, *, buckets: tuple[float, ...] = _BATCH_BUCKETS
    ) -> Histogram:
        return Histogram(f"headrace_{name}", meaning, labels or [], registry=self.registry, buckets=buckets)


def configure_logs(*, level: str, style: Literal["auto", "console", "json"]) -> None:
    """Send all logs to stderr in one format, including those of librdkafka and other libraries."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Consumers and producers get the same properties; librdkafka warns of each that belongs to the other one.
    logging.getLogger("librdkafka").addFilter(_worth_saying)
    # numba logs each step of each function that it compiles, which takes longer than the compiling.
    logging.getLogger("numba").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _worth_saying(record: logging.LogRecord) -> bool:
    # While a broker is away or has just started, librdkafka logs each try, and each transaction that a rebalance ends;
    # the gate says once that something is away, and the sink what became of a transaction.
    return not any(word in record.getMessage() for word in ("CONFWARN", "FAIL [", "ERROR [", "GETPID [", "TXNERR ["))
