"""What the operator sees: every metric with its name, unit and meaning in one place, and the logs' shape."""

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
        self.records = counter("records", "Records that were handled, by outcome.", ["outcome"])
        self.dead_letters = counter("dead_letters", "Records that were refused, by code.", ["code"])
        self.learned = counter("learned", "Labelled records that the model learned.")
        self.times_ahead = counter("times_ahead", "Records whose event time lay too far ahead to be believed.")
        self.relearned = counter("relearned", "Records that were learned again in silence after a restart.")
        self.batch_seconds = histogram("batch_seconds", "Time of one batch by stage.", ["stage"])
        self.latency_seconds = histogram(
            "latency_seconds", "Time from a batch's newest record to its confirmed prediction."
        )
        self.state = gauge("state", "1 for the state that the worker is in, 0 for the others.", ["state"])
        self.paused_seconds = counter("paused_seconds", "Time that the stream was paused, by reason.", ["why"])
        self.failures = counter("failures", "Calls that failed and are tried again, by dependency.", ["dependency"])
        self.offset = gauge("committed_offset", "Next offset to handle (Y).", ["partition"])
        self.snapshot_offset = gauge("snapshot_offset", "Offset of the newest snapshot (X).", ["partition"])
        self.version = gauge("model_version", "Newest version of the model in the store.", ["partition"])
        self.quality = gauge("model_quality", "Quality of the predictions sent, by measure.", ["partition", "measure"])
        self.epoch = gauge("epoch", "Owner's epoch of the partition.", ["partition"])
        self.snapshots = counter("snapshots", "Snapshots by result: saved, fenced or failed.", ["result"])
        self.snapshot_bytes = gauge("snapshot_bytes", "Size of the model in its newest snapshot.", ["partition"])
        self.snapshot_seconds = histogram("snapshot_seconds", "Time that the stream stood still for one snapshot.")
        self.takeovers = counter("takeovers", "Partitions that were taken over.")
        self.stale_batches = counter("stale_batches", "Batches dropped because their partitions had moved on.")
        self.aborts = gauge("transaction_aborts", "Transactions that were aborted since the worker began.")
        self.transaction_seconds = gauge("transaction_age_seconds", "Age of the transaction that is open, or 0.")
        self.restarts = gauge("worker_restarts", "Workers that died in this one's place and were started again.")
        self.state_losses = counter("state_losses", "Takeovers that found less in the store than Kafka knows of.")
        self.relearn_remaining = gauge("relearn_remaining", "Records left to relearn (Y - place).", ["partition"])
        self.relearn_rate = gauge("relearn_records_per_second", "Speed of the relearning that is under way.")
        self.retention_slack = gauge(
            "retention_slack_records", "Records of the log below the newest snapshot (X - log start).", ["partition"]
        )
        self._make_labels()
        self.mixes = counter("mixes", "Rounds of mixing by result: mixed, pulled or refused.", ["result"])
        self.mixed = counter("mixed_examples", "Examples that this worker has brought into the mix.")
        self.mix_seconds = histogram("mix_seconds", "Time of one round of mixing.")
        self.mix_version = gauge("mix_version", "Number of the mix that the worker's model grew from.")
        self.unknown_outcomes = counter("unknown_outcomes", "Transactions whose end had to be read from the offsets.")

    def _make_labels(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.labels = counter("labels", "Records of the labels topic that were handled.")
        self.label_delay = histogram(
            "label_delay_seconds", "Event time from features to their label.", buckets=_DELAY_BUCKETS
        )
        self.labels_waiting = gauge(
            "labels_waiting",
            "Features that wait for labels (asked), and labels for features (early).",
            ["partition", "what"],
        )
        self.labels_waiting_bytes = gauge("labels_waiting_bytes", "Memory that the join takes.", ["partition"])
        self.labels_outcome = gauge(
            "labels_outcome", "Labels and waits by outcome, since the history began.", ["partition", "outcome"]
        )
        self.labelled_share = gauge(
            "labelled_share", "Share of the features that are done waiting that got their label.", ["partition"]
        )
        self.labels_offset = gauge("labels_committed_offset", "Next offset of the labels to handle.", ["partition"])
        self.version_quality = gauge(
            "model_version_quality",
            "Mean score of a model version's predictions.",
            ["partition", "version"],
        )

    def note_labels(self, labels: int, delays_ms: list[int]) -> None:
        """Count labels that were handled, and after how long they were joined."""
        self.labels.inc(labels)
        for delay_ms in delays_ms:
            self.label_delay.observe(delay_ms / 1_000)

    def set_state(self, state: str) -> None:
        """Show the one state that holds."""
        for name in _STATES:
            self.state.labels(name).set(name == state)

    def forget(self, partition: int) -> None:
        """Show a partition no more: it is another worker's now."""
        for gauge in (
            self.offset,
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
    """Send all logs to stderr, librdkafka's and the libraries' among them, in one shape."""
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
    # librdkafka warns of each property that is the other client's; both get the same table.
    logging.getLogger("librdkafka").addFilter(_worth_saying)
    logging.captureWarnings(capture=True)


def _worth_saying(record: logging.LogRecord) -> bool:
    # Connection errors come by the dozen while a broker is away; the gate says once that it is.
    return not any(word in record.getMessage() for word in ("CONFWARN", "FAIL [", "ERROR ["))
