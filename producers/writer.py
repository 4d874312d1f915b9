"""Writes records outside of the stream: those of a user (`produce`), or those of a replay.

`Feed` sends records one by one and checks each delivery. `Writer` sends some records, to any topics, in one transaction
with a group's offsets.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from headrace.producers.producer_errors import BROKERS_KEY, SendRefused, meaning_of, refusal
from headrace.producers.record_size import PLAIN_BYTES_MAX, MessageHeaders, batch_bytes, record_bytes

Delivered = Callable[[int, int], None]
"""Called with the partition and the offset of a record; both are -1 when it was refused."""

_CALL_S = 5.0
_OPEN_S = 30.0
_COMMIT_S = 15.0
_HANG_S = 20.0
_POLL_RECORDS = 100
_SETTINGS = {
    "log_level": 0,
    # Java's partitioner, so that a key has the same partition for every client.
    "partitioner": "murmur2_random",
    # Choose a partition for each record without a key; otherwise a small file goes to one partition.
    "sticky.partitioning.linger.ms": 0,
    # Let the broker refuse records that are too large: it knows each topic's limit.
    "message.max.bytes": 100_000_000,
    "queue.buffering.max.messages": 50_000,
    "queue.buffering.max.kbytes": 262_144,
    "linger.ms": 5,
    "retry.backoff.ms": 5,
    # As for the pipeline's consumers (`client_properties`): reconnect soon, and return to the bootstrap servers.
    "reconnect.backoff.max.ms": 1_000,
    "metadata.recovery.rebootstrap.trigger.ms": 5_000,
}
# With more requests in flight, an idempotent client never delivered the records of a broker that had frozen, and used
# most of a core (librdkafka #4134). One connection is not slower.
_FEED_SETTINGS = {"max.in.flight.requests.per.connection": 1}
_AWAY = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})  # noqa: SLF001 librdkafka's own codes start with an underscore
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001
_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})  # noqa: SLF001


class Outbound(msgspec.Struct, frozen=True, gc=False):
    """One record to send. Without a partition its key chooses one; a `timestamp_ms` of 0 means now."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: MessageHeaders
    timestamp_ms: int


class WriterAway(Exception):
    """Raised when Kafka did not confirm in time; the last transaction may be committed or not."""

    status = 503
    address_key = BROKERS_KEY
    hint = "run it again when Kafka answers: it continues where it stopped, and sends nothing twice"


class WriterFenced(Exception):
    """Raised when another writer of the same transactional id has taken over."""

    status = 409
    hint = "wait until the other one has ended, then run it again: it sends the rest, and nothing twice"


class WriterRefused(SendRefused):
    """Raised when Kafka refuses the records until something is changed."""


class Feed:
    """Send records to `topic`; each is acknowledged, or counted as refused, within `timeout_s` seconds.

    `fault` holds the message of the first refusal; `away` is true when Kafka does not answer. With `each`, every
    delivery is reported, which doubles the cost; otherwise only refusals are. Records larger than `bytes_max` are
    refused here, since a broker would refuse the whole batch. Raises WriterAway if the client gets no token, and
    WriterRefused for a property that librdkafka refuses.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        topic: str,
        timeout_s: float,
        each: bool = True,
        bytes_max: int | None = None,
    ) -> None:
        bounds = {
            "enable.idempotence": True,
            "batch.size": batch_bytes(settings, bytes_max),
            "message.timeout.ms": int(timeout_s * 1_000),
            "delivery.report.only.error": not each,
        }
        self._producer = _client({**_SETTINGS, **_FEED_SETTINGS, **settings, **bounds})
        self._topic = topic
        self._timeout_s = timeout_s
        self._each = each
        self._bytes_max = bytes_max
        self._sent = 0
        self.refused = 0
        self.fault = ""
        self.away = False

    @property
    def acked(self) -> int:
        """The number of records that Kafka has acknowledged so far."""
        return self._sent - self.refused - len(self._producer)

    def send(self, value: bytes, key: bytes | None, delivered: Delivered | None = None) -> None:
        """Queue a record; wait while the queue is full. Refusals are counted, not raised."""
        assert self._each or delivered is None
        report = self._report if delivered is None else partial(self._report, delivered=delivered)
        self._sent += 1
        if self._bytes_max is not None and (size := _size(key, value, self._bytes_max)) > self._bytes_max:
            self.refused += 1
            self.fault = self.fault or (
                f"a record has {size} bytes; the limit of {self._topic} is {self._bytes_max} (max.message.bytes)"
            )
            if delivered is not None:
                delivered(-1, -1)
            return
        while True:
            try:
                self._producer.produce(self._topic, value, key, on_delivery=report)
            except BufferError:
                # Each queued record is answered or given up within `timeout_s`, so this ends.
                self._producer.poll(0.1)
            except KafkaException as error:
                report(error.args[0], None)
                break
            else:
                break
        if self._each or self._sent % _POLL_RECORDS == 0:
            self._producer.poll(0)

    def poll(self) -> bool:
        """Handle Kafka's answers; tell whether it has answered for every record."""
        self._producer.poll(0)
        return not len(self._producer)

    def finish(self) -> None:
        """Wait until every record is acknowledged or refused."""
        left = self._producer.flush(self._timeout_s + _CALL_S)
        if left:
            self.refused += left
            self.fault = self.fault or f"{left} records were not answered"
            self.away = True
            self._producer.purge()
            self._producer.flush(_CALL_S)

    def _report(self, fault: KafkaError | None, message: Any, *, delivered: Delivered | None = None) -> None:
        if fault is not None and fault.code() not in _PURGED:
            self.refused += 1
            self.fault = self.fault or fault.str()
            self.away = self.away or fault.fatal() or fault.code() in _AWAY
        if delivered is not None:
            delivered(*((message.partition(), message.offset()) if fault is None else (-1, -1)))


class Writer:
    """Send records and a group's offsets in transactions of one transactional id.

    `batch_bytes_max` is the largest batch that all its topics allow.
    """

    def __init__(
        self, settings: Mapping[str, Any], *, transactional_id: str, batch_bytes_max: int | None = None
    ) -> None:
        bounds = {
            "enable.idempotence": True,
            "transactional.id": transactional_id,
            "batch.size": batch_bytes(settings, batch_bytes_max),
        }
        self._settings = {**_SETTINGS, "transaction.timeout.ms": 15_000, **settings, **bounds}
        self._producer: Producer | None = None
        self._fault: tuple[KafkaError, str] | None = None

    def open(self) -> None:
        """Initialise transactions: this fences an earlier writer of the id and aborts its open transaction.

        Raises WriterAway, WriterFenced or WriterRefused.
        """
        self._producer = _client(self._settings)
        try:
            self._retry("init_transactions", self._producer.init_transactions, for_s=_OPEN_S)
        except KafkaException as error:
            raise self._error(error.args[0]) from error

    def write(
        self, messages: Sequence[Outbound], *, topic: str, offsets: Mapping[int, int], metadata: str, membership: Any
    ) -> None:
        """Send messages and commit offsets of `topic` in one transaction; return when it is confirmed.

        Raises WriterAway, WriterFenced or WriterRefused; the writer can't be used afterwards.
        """
        producer = self._producer
        assert producer is not None
        self._fault = None
        places = [TopicPartition(topic, partition, offset, metadata) for partition, offset in offsets.items()]
        try:
            producer.begin_transaction()
            for message in messages:
                self._produce(producer, message)
            if places:
                _bounded("send_offsets_to_transaction", producer.send_offsets_to_transaction, places, membership)
            self._retry("commit_transaction", producer.commit_transaction, for_s=_COMMIT_S)
        except KafkaException as error:
            self._abort(producer, error.args[0])
            raise self._error(error.args[0]) from error

    def close(self) -> None:
        """Close the connection. The next writer of this id aborts an open transaction."""
        if self._producer is not None:
            self._producer.purge()
            self._producer = None

    def _produce(self, producer: Producer, message: Outbound) -> None:
        producer.produce(
            message.topic,
            message.value,
            message.key,
            partition=-1 if message.partition is None else message.partition,
            on_delivery=self._report,
            timestamp=message.timestamp_ms,
            headers=list(message.headers),
        )

    def _report(self, fault: KafkaError | None, message: Any) -> None:
        if fault is not None and self._fault is None:
            self._fault = fault, message.topic()

    def _retry(self, name: str, call: Callable[..., Any], *, for_s: float) -> None:
        """Repeat a call after a timeout: librdkafka continues it where it stopped."""
        until = time.monotonic() + for_s
        while True:
            try:
                _bounded(name, call)
            except KafkaException as error:
                fault = error.args[0]
                if fault.txn_requires_abort() or not fault.retriable() or time.monotonic() > until:
                    raise
            else:
                return

    def _abort(self, producer: Producer, fault: KafkaError) -> None:
        # Without an abort, readers wait until the broker's transaction timeout.
        if not fault.fatal() and not fault.retriable():
            with contextlib.suppress(KafkaException, WriterAway):
                _bounded("abort_transaction", producer.abort_transaction)

    def _error(self, fault: KafkaError) -> Exception:
        words = fault.str()
        if self._fault is not None:
            first, topic = self._fault
            words += f" ({topic}: {first.str()})"
            if refusal(first.code()) is not None:
                # The transaction's own error may only say that it can't continue.
                fault = first
        if fault.code() in _FENCED:
            return WriterFenced(f"another replay has taken over, or this one paused for too long: {words}")
        if meaning_of(fault.code()) == "large":
            return WriterRefused(
                f"a record is too large for its topic: {words}", hint="raise the topic's max.message.bytes"
            )
        if meaning_of(fault.code()) == "right":
            return WriterRefused(
                f"Kafka denies it: {words}",
                hint="give the user WRITE on the topics and on the transactional id, and READ on the group",
                code=fault.code(),
            )
        if (found := refusal(fault.code())) is not None:
            return WriterRefused(f"{found[0]}: {words}", hint=found[1])
        return WriterAway(f"Kafka did not accept the records: {words}")


def _client(settings: Mapping[str, Any]) -> Producer:
    try:
        return Producer(dict(settings))
    except KafkaException as error:
        words = error.args[0].str()
        if error.args[0].code() == KafkaError.SASL_AUTHENTICATION_FAILED:
            # The client waits for its first token when it is made.
            raise WriterAway(f"Kafka's client was given no token: {words}") from error
        raise WriterRefused(
            f"librdkafka refuses a property: {words}", hint="correct it in [kafka.librdkafka]"
        ) from error


def _size(key: bytes | None, value: bytes, bytes_max: int) -> int:
    """Return a record's size in bytes: an upper bound if that is below the limit, otherwise the exact size."""
    size_max = len(key or b"") + len(value) + PLAIN_BYTES_MAX
    return size_max if size_max <= bytes_max else record_bytes(key, value, None)


def _bounded(name: str, call: Callable[..., Any], *args: Any) -> None:
    """Run a call in a thread of its own, and abandon the thread if the C client hangs beyond its own timeout."""
    faults: list[BaseException] = []

    def run() -> None:
        try:
            call(*args, _CALL_S)
        except BaseException as fault:  # noqa: BLE001 raised again by the thread that waits
            faults.append(fault)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(_HANG_S)
    if thread.is_alive():
        raise WriterAway(f"Kafka's client hangs in {name}")
    if faults:
        raise faults[0]
