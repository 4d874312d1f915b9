"""Bugs that are seeded into the joints of the promise, one at a time, and the fault test that each turns red.

Each starts another run of the tests, on a copy of the source, which takes up to a minute: `make test` plants three of
them, one each in the transaction, in the reading and in the take-over, and `make soak` all.

| mutant | what is broken | caught by | how it shows |
|---|---|---|---|
| snapshot before commit | X runs ahead of Y | a kill after the offsets are sent | it does not go on, or X is past Y |
| fresh membership | a lost batch is sent as a member of now | a move while the sink is away | predictions come twice |
| rewind and relearn | a failed batch is read and learned again | a reply lost before a commit | counts are wrong |
| no epoch | a zombie's snapshot is taken | a zombie woken after its commit | nothing is refused |
| reset to earliest | a deleted range is skipped | a log that is deleted under a sleeper | it goes on |
| letters outside | dead letters are not in the transaction | a kill before the commit | dead letters come twice |
| off by one | offsets are committed one too far | a stop and a start | records are lost, or counts wrong |
| read uncommitted | aborted input is read | an aborted transaction upstream | foreign records |
| changed batch | what is sent again is not what was sent | a reply lost before a commit | predictions are lost |
| pause kept | what is taken over stays paused | a first run | it never ends |
| unordered relearn | relearning goes backwards | a kill while it relearns | other predictions |
| unchecked count | what is relearned is not counted | a schema that has changed | it goes on |
| added from the end | a new partition is read from its end | a partition that is added | predictions are missing |
"""

from pathlib import Path

import pytest
from mutant import Mutant, assert_caught
from servers import LENT
from trap import SOAK

from headrace.pipeline.embedded import Stack

MUTANTS = [
    Mutant(
        "snapshot before commit",
        "pipeline/worker/runner.py",
        '            self._breakers.attempt("store", partial(self._learn, polled))\n',
        '            self._breakers.attempt("store", partial(self._learn, polled))\n'
        "            for shard in self._assignment.shards.values():\n"
        "                shard.offset > shard.snapshot_offset and self._snapshots._saver.finish(shard)\n",
        "e2e/test_kills.py::test_killed_at_work[offsets-3-0.3]",
        "AssertionError",
    ),
    # A rebalance waits for what is under way, so a fresh membership alone is never newer than what the loop knows: the
    # batch's own is the second line of defence, and shows when the first, to drop what was taken away, is broken too.
    Mutant(
        "fresh membership",
        "pipeline/worker/delivery.py",
        "pending.membership, permit)",
        "self._source._consumer.consumer_group_metadata(), permit)",
        "e2e/test_zombies.py::test_a_batch_that_waits_for_its_sink_while_its_partition_moves_is_its_new_owners",
        "predictions of partition",
        also=(
            "pipeline/worker/assignment.py",
            (
                "        if self._inflight.touches(went):\n"
                '            self.drop("the group has given them to another")\n'
                "        self._forget(went)\n"
            ),
            '        if self._inflight.state == "empty":\n            self._forget(went)\n',
        ),
    ),
    Mutant(
        "rewind and relearn",
        "pipeline/worker/inflight.py",
        '        if not self._breakers.run("kafka", self._send.result):\n',
        '        if not self._breakers.run("kafka", self._send.result):\n'
        "            for partition, start in batch.starts.items():\n"
        "                self._delivery._source.read_from(partition, start.offset)\n"
        "                self._delivery._shards[partition]._place = start.offset, start.labels\n"
        "            self._first = None\n",
        "e2e/test_network.py::test_records_that_kafka_has_from_an_aborted_transaction_are_not_taken_for_those_sent_again",
        "AssertionError",
    ),
    Mutant(
        "no epoch",
        "state/store/lua_scripts.py",
        "if held > tonumber(ARGV[1]) then return {-1, held} end\n",
        "",
        "e2e/test_zombies.py::test_what_a_worker_has_in_hand_when_it_wakes_as_a_zombie_is_refused",
        "snapshot refused after saving",
    ),
    Mutant(
        "reset to earliest",
        "consumers/client_properties.py",
        '"auto.offset.reset": "error"',
        '"auto.offset.reset": "earliest"',
        "e2e/test_loss.py::test_records_that_are_deleted_under_a_sleeping_worker_stop_the_pipeline",
        "the pipeline to stop",
    ),
    Mutant(
        "letters outside",
        "producers/producer_client.py",
        "                _produce(producer, topic, outputs.partition, outputs.records[name])\n",
        '                plain = Producer({"bootstrap.servers": os.environ["HEADRACE__KAFKA__BOOTSTRAP_SERVERS"]})\n'
        '                target = plain if name == "dead_letters" else producer\n'
        "                _produce(target, topic, outputs.partition, outputs.records[name])\n"
        "                plain.flush()\n",
        "e2e/test_kills.py::test_killed_at_work[produced-3-0.2]",
        "dead letters of partition",
    ),
    Mutant(
        "off by one",
        "producers/sink.py",
        "outputs.partition, outputs.offset, outputs.mark)",
        "outputs.partition, outputs.offset + 1, outputs.mark)",
        "e2e/test_restart.py::test_sigterm_ends_within_five_seconds_and_the_next_start_goes_on_to_the_bit",
        "Error",
    ),
    Mutant(
        "read uncommitted",
        "consumers/client_properties.py",
        '"isolation.level": "read_committed"',
        '"isolation.level": "read_uncommitted"',
        "e2e/test_delivery.py::test_aborted_records_and_control_records_upstream_are_passed_over",
        "AssertionError",
    ),
    Mutant(
        "changed batch",
        "pipeline/worker/delivery.py",
        "        self._fix(pending)\n",
        "        for outputs in pending.starts and pending.outputs.values():\n"
        "            outputs.predictions.keys[:1] = outputs.predictions.values[:1] = []\n"
        "        self._fix(pending)\n",
        "e2e/test_network.py::test_records_that_kafka_has_from_an_aborted_transaction_are_not_taken_for_those_sent_again",
        "predictions of partition",
    ),
    Mutant(
        "pause kept",
        "pipeline/worker/assignment.py",
        "        if self.is_paused:\n            self._source.pause([partition])\n",
        "        self._source.pause([partition])\n",
        "e2e/test_restart.py::test_a_first_run_predicts_and_dead_letters_every_record_once",
        "TimeoutExpired",
    ),
    Mutant(
        "unordered relearn",
        "pipeline/worker/learning.py",
        "            self._relearn(shard, silent, now_ms)\n",
        "            columns = {n: getattr(silent, n)[::-1] for n in ('offsets', 'timestamps', 'keys', 'values')}\n"
        "            self._relearn(shard, RecordBatch(silent.partition, **columns), now_ms)\n"
        "            shard._place = silent.offsets[-1] + 1, -1\n",
        "e2e/test_kills.py::test_killed_while_it_takes_over[relearning]",
        "AssertionError",
    ),
    Mutant(
        "unchecked count",
        "pipeline/worker/takeover.py",
        "        if (told.records, told.learned) != (found.records, found.learned) or not _agree(shard, tally):\n",
        "        if False:\n",
        "e2e/test_loss.py::test_a_relearning_that_comes_to_other_counts_stops_the_pipeline",
        "assert 0 == 1",
    ),
    Mutant(
        "added from the end",
        "pipeline/worker/takeover.py",
        "            return ShardStart(self._maker.begin(partition, lows))\n        if last",
        "            lows = max(0, facts.place.high - 1), lows[1]\n"
        "            return ShardStart(self._maker.begin(partition, lows))\n        if last",
        "e2e/test_changing_topics.py::test_a_key_that_moves_to_an_added_partition_begins_a_model_there",
        "predictions of partition",
    ),
]


_QUICK = {"letters outside", "read uncommitted", "unchecked count"}


PLANTED = [mutant for mutant in MUTANTS if SOAK or mutant.name in _QUICK]


@pytest.mark.parametrize("mutant", PLANTED, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_seeded_bug_turns_the_matrix_red(mutant: Mutant, stack: Stack, tmp_path: Path) -> None:
    assert_caught(mutant, tmp_path, **{LENT: f"{stack.addresses.kafka} {stack.addresses.redis}"})
