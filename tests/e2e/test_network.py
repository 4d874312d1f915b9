"""A network that cuts, stalls, delays, resets and loses replies between the worker and Kafka, and the store.

While a fault lasts nothing is asked of the stream but to wait; when it is lifted, it goes on within ten seconds.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from harness import Project, Run, steady, values, wait_until
from oracle import promise
from proxy import Proxied, Proxy

from headrace.state.store.store import Store

# On one worker of the test run: its servers are started once.
pytestmark = pytest.mark.xdist_group("proxied")

RATE = 400
RESUME_S = 10.0
SESSION_S = 6.0
# Room for a second of delay in each question and answer, of which a transaction has several.
SLOW_S = 60.0

AT_START = ("FindCoordinator", "InitProducerId", "JoinGroup", "SyncGroup", "OffsetFetch", "ListOffsets")
ALWAYS = ("Heartbeat", "Fetch", "AddPartitionsToTxn", "Produce", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn")
# A reply that is lost on a connection that lives is missed only when these have passed: a minute, and five.
IMPATIENT = {"HEADRACE__KAFKA__LIBRDKAFKA": json.dumps({"socket.timeout.ms": 3_000, "max.poll.interval.ms": 6_000})}
HASTY = {"HEADRACE__KAFKA__LIBRDKAFKA": json.dumps({"socket.timeout.ms": 3_000})}
# No reset may fall into every reply: the next that is asked for would be no smaller.
SMALL = {"HEADRACE__KAFKA__LIBRDKAFKA": json.dumps({"fetch.message.max.bytes": 20_000, "batch.size": 20_000})}
# The second key of the script that saves partition 0.
SAVE = b"/0}:snapshots"


@contextmanager
def _flowing(proxied: Proxied, directory: Path, *, settings: dict[str, str] | None = None) -> Iterator["_Flow"]:
    """A pipeline under load behind the proxies; when the block ends, the promise is held."""
    p = Project(proxied.stack, directory / "project", settings={**proxied.settings, **(settings or {})})
    with promise(p), p.running() as run, steady(p, values(120_000, bad_every=49), per_second=RATE) as producing:
        try:
            flow = _Flow(p, run)
            flow.goes_on("the start", within_s=SLOW_S)
            yield flow
        finally:
            proxied.kafka.heal()
            proxied.store.heal()
        producing.stop()
        p.wait_for_all()
        assert run.stop() == 0, run.log()
        assert "Traceback" not in run.log_file.read_text()


class _Flow:
    """The pipeline that flows, and what its log says."""

    def __init__(self, p: Project, run: Run) -> None:
        self.p = p
        self.run = run

    def said(self, event: str) -> int:
        """Count how often the log says this."""
        return self.run.log_file.read_text().count(event)

    def goes_on(self, after: str, *, within_s: float = RESUME_S) -> None:
        """Wait until every partition has been committed anew."""
        started = time.monotonic()
        reached = self.p.committed()
        wait_until(
            lambda: all(now[0] > max(reached[n][0], 0) for n, now in self.p.committed().items()),
            what=f"every partition to go on after {after}: {self.run.log()}",
            timeout_s=within_s,
        )
        # To ask for the offsets may wait too.
        assert time.monotonic() - started < within_s, f"{after}: {self.run.log()}"

    def harm(self, proxy: Proxy, fault: str, begin: Callable[[], None], *, lasts_s: float) -> None:
        """Let a fault last, lift it, and see the stream go on."""
        begin()
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started >= lasts_s, what=f"{fault} to last")
        proxy.heal()
        self.goes_on(fault)

    def members(self) -> int:
        """Count the members of the group, as Kafka sees it."""
        # A client that nobody holds any more never answers.
        admin = AdminClient(self.p.client)
        return len(admin.describe_consumer_groups([self.p.name])[self.p.name].result(20).members)


def test_a_link_to_kafka_that_is_cut_or_stalls_heals_and_the_stream_goes_on(proxied: Proxied, tmp_path: Path) -> None:
    kafka = proxied.kafka
    with _flowing(proxied, tmp_path) as flow:
        flow.harm(kafka, "a cut", kafka.cut, lasts_s=4)
        kafka.stall()
        wait_until(lambda: flow.members() == 0, what="Kafka to give the stalled worker up")
        kafka.heal()
        flow.goes_on("a stall longer than the session")
        flow.harm(kafka, "requests that are not carried", lambda: kafka.stall("to_server"), lasts_s=3)
        # Kafka hears each heartbeat; the worker hears nothing, and gives its partitions up by itself.
        flow.harm(kafka, "replies that are not carried", lambda: kafka.stall("to_client"), lasts_s=SESSION_S + 1)


def test_a_slow_link_to_kafka_and_one_that_resets_are_borne(proxied: Proxied, tmp_path: Path) -> None:
    kafka = proxied.kafka
    with _flowing(proxied, tmp_path, settings=SMALL) as flow:
        kafka.delay(0.25, jitter_s=0.25)
        flow.goes_on("half a second to a second of delay, there and back", within_s=SLOW_S)
        kafka.heal()
        flow.goes_on("the delay's end")
        ended = kafka.ended
        kafka.reset_every(100_000)
        wait_until(lambda: kafka.ended >= ended + 8, what="the connections to be reset, again and again")
        flow.goes_on("resets, while they go on", within_s=SLOW_S)
        kafka.heal()
        flow.goes_on("the resets' end")


def test_each_of_kafkas_replies_is_lost_once_and_its_connection_with_it(proxied: Proxied, tmp_path: Path) -> None:
    kafka = proxied.kafka
    faults = [kafka.drop_reply(name, close=True) for name in AT_START]
    with _flowing(proxied, tmp_path) as flow:
        wait_until(lambda: all(fault.happened.is_set() for fault in faults), what=f"each to happen: {faults}")
        for name in ALWAYS:
            fault = kafka.drop_reply(name, close=True)
            wait_until(fault.happened.is_set, what=f"a reply to {name} to be lost")
            flow.goes_on(f"a lost reply to {name}")


def test_each_of_kafkas_replies_is_lost_once_in_silence(proxied: Proxied, tmp_path: Path) -> None:
    kafka = proxied.kafka
    faults = [kafka.drop_reply(name) for name in AT_START]
    with _flowing(proxied, tmp_path, settings=IMPATIENT) as flow:
        wait_until(lambda: all(fault.happened.is_set() for fault in faults), what=f"each to happen: {faults}")
        faults = [kafka.drop_reply(name) for name in ALWAYS]
        wait_until(lambda: all(fault.happened.is_set() for fault in faults), what=f"replies to be lost: {faults}")
        flow.goes_on("all those lost replies")


def test_records_that_kafka_has_from_an_aborted_transaction_are_not_taken_for_those_sent_again(
    proxied: Proxied, tmp_path: Path
) -> None:
    kafka = proxied.kafka
    # Kafka has the dead letters; the client has not heard so when its transaction is aborted for the offsets' sake.
    # If it gave those that are sent again the same numbers, Kafka would drop them as duplicates of the aborted.
    for _ in range(4):
        kafka.drop_reply("Produce", containing=b"dlq.")
    for name in ("AddOffsetsToTxn", "TxnOffsetCommit"):
        kafka.drop_reply(name)
    with _flowing(proxied, tmp_path, settings=HASTY) as flow:
        assert flow.said("Kafka did not accept the transaction"), flow.run.log()
        kafka.heal()
        flow.goes_on("a transaction of which little was heard")


def test_a_link_to_the_store_that_is_cut_stalls_is_slow_or_resets_heals_and_the_stream_goes_on(
    proxied: Proxied, tmp_path: Path
) -> None:
    store = proxied.store
    with _flowing(proxied, tmp_path) as flow:
        assigned = flow.said("partitions assigned")
        flow.harm(store, "a cut", store.cut, lasts_s=3)
        flow.harm(store, "a stall", store.stall, lasts_s=5)
        flow.harm(store, "replies that are not carried", lambda: store.stall("to_client"), lasts_s=4)
        assert flow.said('"paused"'), "the worker says that the store is away"
        store.delay(0.3, jitter_s=0.4)
        flow.goes_on("a slow store", within_s=SLOW_S)
        store.heal()
        ended = store.ended
        store.reset_every(10_000)
        wait_until(lambda: store.ended >= ended + 4, what="the connections to be reset, again and again")
        store.heal()
        flow.goes_on("resets")
        assert flow.said("partitions assigned") == assigned, "the group does not rebalance while the store is away"


def test_a_save_whose_reply_is_lost_is_neither_refused_nor_saved_twice(proxied: Proxied, tmp_path: Path) -> None:
    store = proxied.store
    with _flowing(proxied, tmp_path) as flow:
        taken = flow.said("partition taken over")
        for close in (True, False):
            wait_until(lambda: _saved(flow.p), what="a first save")
            fault = store.drop_reply("EVALSHA", containing=SAVE, close=close)
            wait_until(fault.happened.is_set, what="a save's reply to be lost")
            saved = _saved(flow.p)
            wait_until(lambda saved=saved: _saved(flow.p)[0] > saved[0], what="the next save")
            # The client sends what was reset once more, byte for byte; after a timeout the worker saves anew.
            assert len(set(found := _saved(flow.p))) == len(found) or not close, found
            flow.goes_on("a save whose reply was lost")
        assert flow.said("partition taken over") == taken, "no save was refused"
        assert flow.said("snapshot refused") == 0


def _saved(p: Project) -> list[int]:
    """Return the offsets of the versions in the store, newest first."""
    store = Store(p.stack.addresses.redis, name=p.name)
    try:
        return [note["offset"] for note in store.notes(0)]
    finally:
        store.client.close()
