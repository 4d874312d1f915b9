"""The way out: sends the outputs of a batch to Kafka, and commits its offsets with them.

`TransactionalSink` is exactly-once, `PlainSink` at-least-once. The caller keeps the outputs of a batch until they are
confirmed, so that it can send the same outputs again after any error.

The meaning of a transaction's errors was found out on a real broker. Three cases matter to the caller:
- `BatchStale`: the group has a new generation; the broker refused the offsets, and the transaction is aborted.
- `SinkAway`: the transaction is still open. `open`, then `send` the same batch again: it continues where it stopped.
- `OutcomeUnknown`: the producer has failed, and its last transaction may be committed or not. `open` makes a new one
  with the same transactional id, which ends the old transaction; then the committed offsets show the outcome.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from headrace.producers.output import Committable, Reach
from headrace.producers.producer_client import close_later, produce, producer_settings
from headrace.producers.producer_errors import BROKERS_KEY, SendRefused, meaning_of, refusal
from headrace.producers.record_size import batch_bytes

Permit = Callable[[], None]
"""Called before a transaction is committed; raises an error if it must not be."""
Deadline = Callable[[str], Any]
"""Makes a context for a named call; if the call does not end in time, the process is ended."""
TRANSACTION_TIMEOUT_MS = 8_000
"""A dead worker's open transaction delays its successor for this time; a transaction takes well under a second."""
_CALL_S = 5.0
# The status of errors that pass by themselves.
_AWAY = 503
# Give up a lost reply within the time of one call.
_SOCKET_MS = 5_000


def _permit() -> None:
    """Allow every commit."""


class SinkAway(Exception):
    """Raised when Kafka can't accept the batch now; send the same batch again later."""

    status = 503
    address_key = BROKERS_KEY
    hint = "start Kafka or correct kafka.bootstrap_servers; a running pipeline waits for it and loses nothing"


class OutputMissing(SinkAway):
    """Raised when an output topic does not exist any more; send the same batch again when it does."""

    address_key = ""
    hint = "create the topic again, and the pipeline goes on by itself; `headrace run` creates it at its start, too"


class BatchStale(Exception):
    """Raised when the partitions of the batch are no longer this worker's; nothing of it was sent."""

    status = 409
    hint = "nothing to do: the partitions are taken over afresh"


class OutcomeUnknown(Exception):
    """Raised when it is not known whether a transaction was committed: open the sink again and read the offsets."""

    status = 503
    address_key = BROKERS_KEY
    hint = "nothing to do: the committed offsets tell whether the batch was sent"


class SinkRefused(SendRefused):
    """Raised when Kafka refuses the batch until something is changed: a missing right, or a setting."""


class SinkTooLarge(Exception):
    """Raised when a record, or a batch of records, is larger than its topic allows; nothing of the batch was sent.

    `topic` is the topic that refused, empty if that is not known.
    """

    status = 413
    hint = "nothing to do: a record that is too large becomes a dead letter"

    def __init__(self, message: str, *, topic: str = "") -> None:
        super().__init__(message)
        self.topic = topic


class Sink(Protocol):
    """Sends batches. A sink that `commits` also commits their offsets.

    `batch_bytes_max` is the largest batch that the output topics allow; the next producer gets it. `begun_at` is the
    start of the open transaction, in seconds of the monotonic clock; `aborts` counts aborted transactions.
    """

    commits: bool
    batch_bytes_max: int
    aborts: int
    begun_at: float | None

    def open(self) -> None:
        """Prepare to send. Raises SinkAway, SinkRefused."""

    def send(self, batch: Sequence[Committable], membership: Any, permit: Permit = _permit) -> None:
        """Send the outputs, and return when they are confirmed. Raises the errors of this module.

        `membership` is the group membership under which the batch was polled. A sink that `commits` calls `permit`
        before the commit; an error from it prevents the commit. After SinkTooLarge the sink must be opened again, and
        the outputs may then be others.
        """

    def close(self) -> None:
        """Close the connection without waiting for unconfirmed records."""


class TransactionalSink:
    """Sends each batch's outputs and offsets in one Kafka transaction. `outputs` has their topics by name."""

    commits = True

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        transactional_id: str,
        outputs: Mapping[str, str],
        features: str,
        labels: str | None = None,
        deadline: Deadline,
        reach: Reach,
    ) -> None:
        timeout_ms = settings.get("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
        self._settings = {
            "transaction.timeout.ms": timeout_ms,
            # The request that sends the offsets waits for this time and ignores the timeout of its call.
            "socket.timeout.ms": min(_SOCKET_MS, int(timeout_ms)),
            **producer_settings(settings),
            "transactional.id": transactional_id,
        }
        self.batch_bytes_max = sys.maxsize
        self._outputs = outputs
        self._features = features
        self._labels = labels
        self._deadline = deadline
        self._reach = reach
        self._producer: Producer | None = None
        self._ready = False
        self._filled = False
        self._committing = False
        self.aborts = 0
        self.begun_at: float | None = None

    def open(self) -> None:
        """Make the producer, and end the open transaction of an earlier one with this id; do nothing if it is open."""
        if self._ready:
            return
        producer = self._producer or _producer(self._settings, self.batch_bytes_max)
        self._producer = producer
        try:
            self._call("init_transactions", producer.init_transactions)
        except KafkaException as error:
            self._discard(keep=error.args[0].retriable())
            raise _away_or_refused(error) from error
        self._ready = True

    def send(self, batch: Sequence[Committable], membership: Any, permit: Permit = _permit) -> None:
        """Send the outputs with the offsets; after SinkAway, continue with the permit or the commit."""
        if self._producer is None or not self._ready:
            raise OutcomeUnknown("the producer is gone")
        try:
            if not self._filled:
                self._fill(self._producer, batch, membership)
            self._filled = True
            self._ask(self._producer, permit)
            self._committing = True
            self._call("commit_transaction", self._producer.commit_transaction)
            self._committing = self._filled = False
            self.begun_at = None
        except KafkaException as error:
            self._end_failed(self._producer, error)
        except BufferError as error:
            self._discard()
            raise _overfull(error) from error

    def close(self) -> None:
        """Close the producer. The next one with this id aborts an open transaction."""
        self._discard()

    def _fill(self, producer: Producer, batch: Sequence[Committable], membership: Any) -> None:
        """Begin a transaction, send the offsets, then the outputs.

        The offsets go first because the broker rejects the first request of a transaction until the markers of the last
        one are written. The client repeats the request for offsets after `retry.backoff.ms`, but that for an output's
        partition always after 20 ms.
        """
        producer.begin_transaction()
        self.begun_at = time.monotonic()
        self._reach("begun")
        self._send_offsets(producer, batch, membership)
        produce(producer, batch, self._outputs, reach=self._reach)
        self._reach("produced")

    def _send_offsets(self, producer: Producer, batch: Sequence[Committable], membership: Any) -> None:
        offsets = [TopicPartition(self._features, outputs.partition, outputs.offset, outputs.mark) for outputs in batch]
        if self._labels is not None:
            offsets += [TopicPartition(self._labels, outputs.partition, outputs.labels_offset) for outputs in batch]
        self._call("send_offsets_to_transaction", producer.send_offsets_to_transaction, offsets, membership)
        self._reach("offsets")

    def _ask(self, producer: Producer, permit: Permit) -> None:
        """Call `permit`; if it refuses for good, abort at once, so that readers need not wait for the timeout."""
        try:
            permit()
        except Exception as error:
            if getattr(error, "status", _AWAY) != _AWAY:
                with contextlib.suppress(KafkaException):
                    self._call("abort_transaction", producer.abort_transaction)
                self.aborts += 1
                self._discard()
            raise

    def _end_failed(self, producer: Producer, error: KafkaException) -> None:
        """Abort the failed transaction if that is possible, and raise the error that says its outcome."""
        fault = error.args[0]
        if self._committing and fault.retriable() and not fault.txn_requires_abort():
            # After a timeout the commit continues when it is called again.
            raise SinkAway(f"Kafka has not confirmed the transaction: {fault.str()}") from error
        if fault.txn_requires_abort():
            try:
                self._call("abort_transaction", producer.abort_transaction)
            except KafkaException as second:
                self._discard()
                raise OutcomeUnknown(f"the transaction could not be aborted: {second}") from second
            self.aborts += 1
            # Do not use this producer again: if a reply was outstanding at the abort, the client may reuse sequence
            # numbers that Kafka already has, and Kafka drops the records of the next transaction as duplicates.
            self._discard()
            raise _after_abort(fault, topic=self._named(fault)) from error
        committing = self._committing
        self._discard()
        if meaning_of(fault.code()) == "right":
            raise _away_or_refused(error) from error
        if not committing and meaning_of(fault.code()) not in {"passes", "stale"}:
            # Kafka refused it before the commit, so nothing was sent.
            raise _after_abort(fault, topic=self._named(fault)) from error
        raise OutcomeUnknown(f"the transaction failed: {fault.str()}") from error

    def _named(self, fault: KafkaError) -> str:
        """Return the topic that an error's text names; delivery reports would tell it, but cost too much."""
        return next((topic for topic in self._outputs.values() if f" {topic} [" in fault.str()), "")

    def _call(self, name: str, call: Callable[..., Any], *args: Any) -> None:
        with self._deadline(name):
            call(*args, _CALL_S)

    def _discard(self, *, keep: bool = False) -> None:
        if keep or self._producer is None:
            return
        close_later(self._producer)
        self._producer = None
        self._ready = False
        self._committing = self._filled = False
        self.begun_at = None


class PlainSink:
    """Sends the outputs of each batch and waits for the acknowledgements; the caller then commits the offsets."""

    commits = False
    aborts = 0
    begun_at: float | None = None

    def __init__(
        self, settings: Mapping[str, Any], *, outputs: Mapping[str, str], deadline: Deadline, reach: Reach
    ) -> None:
        self._reach = reach
        self._settings = {
            "socket.timeout.ms": _SOCKET_MS,
            **producer_settings(settings),
            "delivery.report.only.error": True,
            "on_delivery": self._failed,
        }
        self._outputs = outputs
        self._deadline = deadline
        self.batch_bytes_max = sys.maxsize
        self._producer: Producer | None = None
        self._faults: list[tuple[KafkaError, str]] = []

    def open(self) -> None:
        """Make the producer; it finds the broker by itself."""
        self._producer = self._producer or _producer(self._settings, self.batch_bytes_max)

    def send(
        self,
        batch: Sequence[Committable],
        membership: Any,  # noqa: ARG002 the protocol's
        permit: Permit = _permit,  # noqa: ARG002
    ) -> None:
        """Send the outputs, and wait until all of them are acknowledged."""
        self.open()
        assert self._producer is not None
        self._faults.clear()
        try:
            produce(self._producer, batch, self._outputs, reach=self._reach)
        except KafkaException as error:
            self.close()
            raise _after_abort(error.args[0]) from error
        except BufferError as error:
            self.close()
            raise _overfull(error) from error
        with self._deadline("flush"):
            left = self._producer.flush(_CALL_S)
        if left or self._faults:
            # Report a record that is too large first: to send the batch again would not help.
            faults = sorted(self._faults, key=lambda found: meaning_of(found[0].code()) != "large")
            self.close()
            if faults:
                raise _after_abort(faults[0][0], topic=faults[0][1])
            raise SinkAway(f"{left} records are not acknowledged")

    def close(self) -> None:
        """Close the producer and drop its queue; the caller sends the batch again."""
        if self._producer is not None:
            close_later(self._producer)
            self._producer = None

    def _failed(self, fault: KafkaError, message: Any) -> None:
        self._faults.append((fault, message.topic()))


def _producer(settings: dict[str, Any], batch_bytes_max: int) -> Producer:
    try:
        return Producer({**settings, "batch.size": batch_bytes(settings, batch_bytes_max)})
    except KafkaException as error:
        if error.args[0].code() == KafkaError.SASL_AUTHENTICATION_FAILED:
            # The client waits for its first token when it is made.
            raise SinkAway(f"Kafka's client was given no token: {error.args[0].str()}") from error
        raise SinkRefused(
            f"librdkafka refuses a property: {error.args[0].str()}", hint="correct it in [kafka.librdkafka]"
        ) from error


def _after_abort(fault: KafkaError, *, topic: str = "") -> Exception:
    meaning = meaning_of(fault.code())
    if meaning == "stale":
        return BatchStale(f"the group has moved on: {fault.str()}")
    if meaning == "large":
        return SinkTooLarge(f"a record is too large for its topic: {fault.str()}", topic=topic)
    return _refused(fault) or SinkAway(f"Kafka did not accept the transaction: {fault.str()}")


def _overfull(error: BufferError) -> SinkRefused:
    # The queue was empty before the batch, so the same batch would never fit.
    return SinkRefused(
        f"a batch does not fit the client's queue: {error}",
        hint="lower batch.records_max, or leave queue.buffering.max.messages and .kbytes as they are",
    )


def _away_or_refused(error: KafkaException) -> Exception:
    fault = error.args[0]
    return _refused(fault) or SinkAway(f"Kafka does not answer: {fault.str()}")


def _refused(fault: KafkaError) -> SinkRefused | None:
    found = refusal(fault.code())
    return None if found is None else SinkRefused(f"{found[0]}: {fault.str()}", hint=found[1], code=fault.code())
