"""The way out: the outputs of a batch and the offsets behind it, sent together or not at all.

`TransactionalSink` is exactly-once, `PlainSink` at-least-once. A batch's outputs are values that stay with
the caller until they are confirmed, so whatever happens on the way, the very same outputs can be sent again.

What a transaction's errors mean was learned on a real broker. Three cases matter to the caller:
- `BatchStale`: the group has moved on, the broker refused the offsets, the transaction is aborted.
- `SinkAway`: nothing is decided; `open` and `send` again with the same batch: it goes on where it stood.
- `OutcomeUnknown`: the producer is dead and its last transaction may be committed or not. `open` makes a new
  one with the same transactional id, which ends whatever the old one left open; then the committed offsets tell.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from headrace.producers.output import Committable, Reach
from headrace.producers.producer_client import let_go, produce, producer_settings
from headrace.producers.producer_errors import meaning_of, refusal
from headrace.producers.record_size import batch_bytes

Permit = Callable[[], None]
"""Called when a transaction is ready to be committed; raises where it must not be."""
Deadline = Callable[[str], Any]
"""Makes a context in which the named call must end, or the process does."""
TRANSACTION_TIMEOUT_MS = 8_000
"""How long a dead worker's transaction may hold up its successor; the calls of one take well under a second."""
_CALL_S = 5.0
# The status of what passes by itself.
_AWAY = 503
# A reply that was lost on a connection that lives is missed within the time that a call may take.
_SOCKET_MS = 5_000


def _permit() -> None:
    """Let every transaction be committed."""


class SinkAway(Exception):
    """Raised when Kafka can't take the batch for now; send the same batch again later."""

    status = 503
    hint = "nothing is lost: the pipeline waits for Kafka and goes on by itself"


class BatchStale(Exception):
    """Raised when the partitions of the batch are no longer this worker's; nothing of it was sent."""

    status = 409
    hint = "nothing to do: the partitions are taken over afresh"


class OutcomeUnknown(Exception):
    """Raised when a transaction's end was not heard of: open the sink again and read the offsets."""

    status = 503
    hint = "nothing to do: the committed offsets tell whether the batch was sent"


class SinkRefused(Exception):
    """Raised when Kafka will never take the batch as things are: no right to write, or a record too large."""

    status = 400

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class SinkTooLarge(Exception):
    """Raised when a topic took less than a record, or a batch of them, has; nothing of the batch was sent.

    `topic` is the one that refused, empty where that is not known.
    """

    status = 413
    hint = "nothing to do: what is too large is dead-lettered as far as there is room"

    def __init__(self, message: str, *, topic: str = "") -> None:
        super().__init__(message)
        self.topic = topic


class Sink(Protocol):
    """Where a batch goes. `commits` tells whether the offsets go with it.

    `batch_bytes_max` is the largest batch that the output topics take; it holds for the next producer that is made.
    `begun_at` is when the open transaction began, in seconds of the monotonic clock; `aborts` counts the transactions
    that were aborted.
    """

    commits: bool
    batch_bytes_max: int
    aborts: int
    begun_at: float | None

    def open(self) -> None:
        """Be ready to send. Raises SinkAway, SinkRefused."""

    def send(self, batch: Sequence[Committable], membership: Any, permit: Permit = _permit) -> None:
        """Return when the outputs are confirmed. Raises the errors of this module.

        The membership is the one that held when the batch was consumed. Where the sink `commits`, `permit` is called
        before the commit; what it raises leaves the batch uncommitted.
        After SinkTooLarge it is to be opened again; what is sent then may be other outputs.
        """

    def close(self) -> None:
        """Let go of the connection, without waiting for what was not confirmed."""


class TransactionalSink:
    """All outputs and the offsets in one Kafka transaction a batch. `outputs` are the topics, by the output's name."""

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
            # The offsets' own request waits as long, whatever the call is told.
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
        """Make the producer and end what an earlier one of this id left open; do nothing while it works."""
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
        """Send the outputs with the offsets, or go on where only the permit, or the commit, is left."""
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
            self._settle(self._producer, error)
        except BufferError as error:
            self._discard()
            raise _overfull(error) from error

    def close(self) -> None:
        """Leave the producer. An open transaction is ended by the next one of this id."""
        self._discard()

    def _fill(self, producer: Producer, batch: Sequence[Committable], membership: Any) -> None:
        """Begin a transaction with the offsets, then hand over the outputs.

        In this order: until the last transaction's markers are written, the first request of the next is turned back.
        That of the offsets is tried again after `retry.backoff.ms`; that of an output's partition after 20 ms, always.
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
        """Ask whether the transaction may count; where it never will, readers need not wait for its end."""
        try:
            permit()
        except Exception as error:
            if getattr(error, "status", _AWAY) != _AWAY:
                with contextlib.suppress(KafkaException):
                    self._call("abort_transaction", producer.abort_transaction)
                self.aborts += 1
                self._discard()
            raise

    def _settle(self, producer: Producer, error: KafkaException) -> None:
        """Bring the failed transaction to an end that is known, if it can be, and say which."""
        fault = error.args[0]
        if self._committing and fault.retriable() and not fault.txn_requires_abort():
            # A commit that timed out goes on where it stood when it is called again.
            raise SinkAway(f"Kafka has not confirmed the transaction: {fault.str()}") from error
        if fault.txn_requires_abort():
            try:
                self._call("abort_transaction", producer.abort_transaction)
            except KafkaException as second:
                self._discard()
                raise OutcomeUnknown(f"the transaction could not be aborted: {second}") from second
            self.aborts += 1
            # Not to be used again: where a reply was outstanding when it aborted, the client gives the records of the
            # next transaction the numbers of those that Kafka already has, and they are dropped as duplicates.
            self._discard()
            raise _after_abort(fault, topic=self._named(fault)) from error
        committing = self._committing
        self._discard()
        if meaning_of(fault.code()) == "right":
            raise _away_or_refused(error) from error
        if not committing and meaning_of(fault.code()) not in {"passes", "stale"}:
            # What is refused before the commit never was sent, and never will be.
            raise _after_abort(fault, topic=self._named(fault)) from error
        raise OutcomeUnknown(f"the transaction failed: {fault.str()}") from error

    def _named(self, fault: KafkaError) -> str:
        """Return the topic that an error names; to be told of each delivery would cost more than all else."""
        return next((topic for topic in self._outputs.values() if f" {topic} [" in fault.str()), "")

    def _call(self, name: str, call: Callable[..., Any], *args: Any) -> None:
        with self._deadline(name):
            call(*args, _CALL_S)

    def _discard(self, *, keep: bool = False) -> None:
        if keep or self._producer is None:
            return
        let_go(self._producer)
        self._producer = None
        self._ready = False
        self._committing = self._filled = False
        self.begun_at = None


class PlainSink:
    """All outputs, flushed a batch; the caller commits the offsets afterwards."""

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
            # What is too large is to be mended before all else is tried again.
            faults = sorted(self._faults, key=lambda found: meaning_of(found[0].code()) != "large")
            self.close()
            if faults:
                raise _after_abort(faults[0][0], topic=faults[0][1])
            raise SinkAway(f"{left} records are not acknowledged")

    def close(self) -> None:
        """Leave the producer with what it still holds; it is sent again by the next."""
        if self._producer is not None:
            let_go(self._producer)
            self._producer = None

    def _failed(self, fault: KafkaError, message: Any) -> None:
        self._faults.append((fault, message.topic()))


def _producer(settings: dict[str, Any], batch_bytes_max: int) -> Producer:
    try:
        return Producer({**settings, "batch.size": batch_bytes(settings, batch_bytes_max)})
    except KafkaException as error:
        raise SinkRefused(
            f"librdkafka does not take a property: {error.args[0].str()}", hint="mend it in [kafka.librdkafka]"
        ) from error


def _after_abort(fault: KafkaError, *, topic: str = "") -> Exception:
    meaning = meaning_of(fault.code())
    if meaning == "stale":
        return BatchStale(f"the group has moved on: {fault.str()}")
    if meaning == "large":
        return SinkTooLarge(f"a record is too large for its topic: {fault.str()}", topic=topic)
    return _refused(fault) or SinkAway(f"Kafka did not take the transaction: {fault.str()}")


def _overfull(error: BufferError) -> SinkRefused:
    # Each batch finds the queue empty: one that does not fit will not fit the next time.
    return SinkRefused(
        f"a batch does not fit the client's queue: {error}",
        hint="lower batch.records_max, or leave queue.buffering.max.messages and .kbytes as they are",
    )


def _away_or_refused(error: KafkaException) -> Exception:
    fault = error.args[0]
    return _refused(fault) or SinkAway(f"Kafka does not answer: {fault.str()}")


def _refused(fault: KafkaError) -> SinkRefused | None:
    found = refusal(fault.code())
    return None if found is None else SinkRefused(f"{found[0]}: {fault.str()}", hint=found[1])
