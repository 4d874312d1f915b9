"""A keyring may keep its models wherever it likes: nobody can tell from what they answer."""

import math
import random
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec
import pytest
from packed import SEAL, rows_of, rows_to_save
from river import facto, linear_model, preprocessing, tree

from headrace.state.event_time import EventClock
from headrace.state.keyed.bank import Bank, RiverBank
from headrace.state.keyed.bank_choice import bank_of
from headrace.state.keyed.key_row import KeyRow
from headrace.state.keyed.keyring import TABLE, Keyring
from headrace.state.models.learner import RiverLearner
from headrace.state.models.task import ModelError
from headrace.state.row_packing import TableDamaged, TableVersion

SILENT_MS = 400
EVERYTHING = 10**9
EPOCH = 3
NAMES = [b"key %d" % n for n in range(60)]


class Touchy(linear_model.LogisticRegression):
    """Raises on a trap when the harm is done."""

    def learn_one(self, x: dict[Any, Any], y: Any, w: float = 1.0) -> None:
        super().learn_one(x, y, w)
        if "trap" in x:
            raise ArithmeticError("after all was learned")


class TouchyTree(tree.HoeffdingTreeClassifier):
    """Raises on a trap when it has learned it twice."""

    def learn_one(self, x: dict[Any, Any], y: Any, *, w: float = 1.0) -> None:
        super().learn_one(x, y, w=w)  # type: ignore[no-untyped-call]
        if "trap" in x:
            super().learn_one(x, y, w=w)  # type: ignore[no-untyped-call]
            raise ArithmeticError("after all was learned")


class TouchyFactors(facto.FMClassifier):
    """Draws the factors of a feature when it is first met, be it to predict, and raises on a trap."""

    def learn_one(self, x: dict[Any, Any], y: Any, w: float = 1.0) -> None:
        super().learn_one(x, y, w)  # type: ignore[no-untyped-call]
        if "trap" in x:
            raise ArithmeticError("after all was learned")


class Counting(Touchy):
    """Counts all predictions, of whatever copy."""

    asked: ClassVar[int] = 0

    def predict_proba_one(self, x: dict[Any, Any]) -> dict[Any, float]:
        Counting.asked += 1
        return super().predict_proba_one(x)


def scaled() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


MODELS: dict[str, Callable[[], Any]] = {
    "a compiled bank": scaled,
    "a trees' bank": lambda: TouchyTree(grace_period=10, delta=0.2, tau=0.2),
    "a bank of its own": lambda: preprocessing.StandardScaler() | Touchy(),
    "a bank that draws": lambda: TouchyFactors(n_factors=3, seed=7),
}


def learner_of(kind: str) -> RiverLearner:
    return RiverLearner(MODELS[kind](), trusted=frozenset({__name__}))


def made(kind: str, *, prior: bool = False) -> Bank:
    bank = bank_of(learner_of(kind), compiles=True, prior=prior)
    assert isinstance(bank, RiverBank) == (kind != "a compiled bank")
    return bank


class Disk:
    """A store's table, which goes through its rows by pages as Redis does, and counts its round trips."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.version = 0
        self.is_half_written = False
        self.asked: list[list[bytes]] = []

    def fetch(self, keys: Sequence[bytes], stand: TableVersion) -> list[bytes | None]:
        if stand.version > self.version or stand.rows > len(self.rows):
            raise TableDamaged(f"there are {len(self.rows)} rows; there were {stand.rows}")
        assert self.is_half_written or stand == TableVersion(EPOCH, self.version, len(self.rows))
        self.asked.append(list(keys))
        return [self.rows.get(key) for key in keys]

    def scan(self) -> Iterator[list[tuple[bytes, bytes]]]:
        keys = list(self.rows)
        for start in range(0, len(keys), 16):
            yield [(key, self.rows[key]) for key in keys[start : start + 16] if key in self.rows]

    def write(self, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        for key, row in changes:
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row

    def seen(self) -> dict[bytes, int]:
        return {key: msgspec.msgpack.decode(row, type=KeyRow).seen_ms for key, row in self.rows.items()}


def keyring(
    disk: Disk,
    kind: str = "a compiled bank",
    *,
    hot_max: int = EVERYTHING,
    prior: bool = False,
    silent_ms: int | None = None,
) -> Keyring:
    keys = Keyring(made(kind, prior=prior), fetch=disk.fetch, scan=disk.scan, hot_max=hot_max, silent_ms=silent_ms)
    keys.resume(TableVersion(EPOCH, disk.version, len(disk.rows)))
    return keys


def save(keys: Keyring, disk: Disk) -> dict[bytes, bytes | None]:
    keys.begin_save()
    told, (changes, models) = len(keys), rows_to_save(keys)
    assert changes == one_by_one(keys)
    bring(disk, changes, told)
    keys.saved(models, disk.version)
    assert len(keys) == told
    return changes


def one_by_one(keys: Keyring) -> dict[bytes, bytes | None]:
    """Write down by hand the rows that are to be saved."""
    rows: dict[bytes, bytes | None] = dict.fromkeys(keys._saving.swept)
    for key in keys._saving.changed:
        model = keys._bank.dump(key) if key in keys._bank else b""
        rows[key] = msgspec.msgpack.encode(KeyRow(keys._hot[key].seen_ms, model))
    return rows


def bring(disk: Disk, changes: dict[bytes, bytes | None], told: int) -> None:
    disk.write(changes.items())
    assert len(disk.rows) == told, "the snapshot that goes with the rows tells how many there are"
    disk.version, disk.is_half_written = disk.version + 1, False


def fail(keys: Keyring) -> dict[bytes, bytes | None]:
    """Begin a save that fails; what of it is written is for the caller to do."""
    keys.begin_save()
    changes, _ = rows_to_save(keys)
    keys.not_saved()
    return changes


class Record(NamedTuple):
    key: bytes
    at_ms: int
    features: dict[str, Any]
    label: bool | None = None
    trap: bool = False
    asked: bool = True
    """Whether it is met and predicted; else its label has come later, and it is only learned."""


def stream(kind: str, *, count: int, seed: int) -> list[Record]:
    """Make records of keys that are busy, rare, silent and back again; features come and go, and some raise."""
    rng, known = random.Random(seed), set[bytes]()
    records = []
    for step in range(count):
        key = NAMES[min(int(rng.expovariate(0.07)), 59) if rng.random() < 0.8 else (step // 40 * 7) % 60]
        features: dict[str, Any] = {name: rng.gauss(2, 3) for name in rng.sample("abcde", rng.randint(1, 4))}
        trap = rng.random() < 0.08
        if trap:
            features["trap"] = "no number" if kind == "a compiled bank" else 1.0
        truth = sum(features[name] for name in features if name != "trap") + NAMES.index(key) % 7 > 5
        label = truth if trap or rng.random() < 0.7 else None
        # Time goes on, stands still, and goes back for late records.
        at_ms = 4 * step - (rng.randrange(300) if rng.random() < 0.1 else 0)
        # Only what was asked before can be told later.
        asked = label is None or key not in known or rng.random() < 0.8
        known.add(key)
        records.append(Record(key, max(0, at_ms), features, label, trap, asked))
    return records


def bits(answer: Any) -> Any:
    """Return an answer so that equal means equal to the bit."""
    if isinstance(answer, float):
        return "nan" if math.isnan(answer) else struct.pack("d", answer)
    if isinstance(answer, dict):
        return [(name, bits(value)) for name, value in answer.items()]
    return tuple(map(bits, answer)) if isinstance(answer, tuple) else answer


def handle(keys: Keyring, record: Record) -> Any:
    """Do what the engine does with a record, and return what can be seen of it."""
    answer: Any = None
    if record.asked:
        keys.meet(record.key, record.at_ms, record.at_ms)
    try:
        if record.asked:
            answer = keys.predict(record.features.copy(), record.key)
        if record.label is not None:
            keys.learn(record.features.copy(), record.label, record.key)
    except (ArithmeticError, TypeError):
        assert record.trap
        keys.undo(record.key)
        return "raised"
    assert not record.trap
    keys.keep(record.features, record.label, record.key, predicted=record.asked)
    return bits(answer)


def told(kind: str, records: list[Record], *, prior: bool, silent_ms: int | None) -> list[Any]:
    """Return what is to be seen of each record, by the plainest of all keyrings: a learner a key, and no undo."""
    learners: dict[bytes, RiverLearner] = {}
    seen: dict[bytes, int] = {}
    everyone, clock, answers = (learner_of(kind) if prior else None), EventClock(silent_ms or 0), list[Any]()
    # A compiled model is not there before it is taught, unless it has something from the model of all.
    born, blank = (b"" if kind == "a compiled bank" else learner_of(kind).dump()), learner_of(kind)
    for record in records:
        key, answer = record.key, None
        if record.asked:
            clock.tick(record.at_ms, record.at_ms)
        now_ms = clock.now_ms
        if silent_ms is not None:
            if seen.get(key, now_ms) < now_ms - silent_ms:
                learners.pop(key, None)
            seen[key] = now_ms
        if key not in learners and born:
            learners[key] = learner_of(kind)
            learners[key].load(born)
        if record.trap:
            answers.append("raised")
            continue
        if record.asked:
            answer = learners.get(key, blank).predict(record.features.copy())
        if record.label is not None:
            if everyone is not None:
                everyone.learn(record.features.copy(), record.label)
                born = everyone.dump()
            learners.setdefault(key, learner_of(kind)).learn(record.features.copy(), record.label)
        answers.append(bits(answer))
    return answers


MODES: dict[str, dict[str, Any]] = {
    "for ever": {"prior": False, "silent_ms": None},
    "until silent": {"prior": False, "silent_ms": SILENT_MS},
    "born of all": {"prior": True, "silent_ms": None},
    "born of all until silent": {"prior": True, "silent_ms": SILENT_MS},
}


# A tree is slow to copy.
COUNTS = {"a compiled bank": 200, "a trees' bank": 60, "a bank of its own": 100, "a bank that draws": 60}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", MODELS)
def test_a_keyring_that_holds_everything_answers_as_a_learner_for_each_key(kind: str, mode: str) -> None:
    records = stream(kind, count=COUNTS[kind], seed=99)
    keys = keyring(Disk(), kind, **MODES[mode])
    assert [handle(keys, record) for record in records] == told(kind, records, **MODES[mode])


class Errand(NamedTuple):
    """A save that goes on beside the stream: what it brings, and from when."""

    changes: dict[bytes, bytes | None]
    models: dict[bytes, bytes]
    told: int
    at: int
    checkpoint: bytes


class Life:
    """A keyring, the store, and what may become of them; each event is a method, after which it goes on at `at`."""

    def __init__(self, rng: random.Random, make: Callable[[Disk], Keyring]) -> None:
        self._rng = rng
        self._make = make
        self._half_written: set[bytes] = set()
        self._arrived = False
        self.errand: Errand | None = None
        self.at = 0
        self.disk = Disk()
        self.keys = make(self.disk)
        self._found: tuple[int, dict[bytes, bytes], int, bytes] = (0, {}, 0, self.keys.dump())

    def save(self) -> None:
        assert self._half_written <= save(self.keys, self.disk).keys()
        self._half_written = set()
        self._note(self.at, self.keys.dump())

    def fail(self) -> None:
        """Let a save fail at once, half way."""
        self.begin()
        self.lose()

    def begin(self) -> None:
        """Begin a save that goes on beside the stream."""
        self.keys.begin_save()
        self.errand = Errand(*rows_to_save(self.keys), len(self.keys), self.at, self.keys.dump())
        self._arrived = False
        assert self._half_written <= self.errand.changes.keys(), "what may be written is written until a save succeeds"
        self.disk.is_half_written = True

    def write(self) -> None:
        """Let some of the rows arrive."""
        assert self.errand is not None
        changes = list(self.errand.changes.items())
        self.disk.write(self._rng.sample(changes, self._rng.randint(0, len(changes))))

    def arrive(self) -> None:
        """Let all of it be a version in the store, of which the keyring has not heard."""
        if self.errand is not None and not self._arrived:
            bring(self.disk, self.errand.changes, self.errand.told)
            self.disk.is_half_written = self._arrived = True
            self._note(self.errand.at, self.errand.checkpoint)

    def end(self) -> None:
        self.arrive()
        assert self.errand is not None
        self.keys.saved(self.errand.models, self.disk.version)
        self.disk.is_half_written, self._half_written, self.errand = False, set(), None

    def lose(self) -> None:
        """Let it fail, or seem to, with some of the rows written."""
        self.write()
        assert self.errand is not None
        self.keys.not_saved()
        self._half_written |= self.errand.changes.keys()
        self.errand = None

    def die(self) -> None:
        """Begin anew from what the store has, rewound to its newest version."""
        self.at, rows, version, checkpoint = self._found
        self._half_written, self.errand = set(), None
        self.disk = Disk()
        self.disk.rows, self.disk.version = dict(self._rng.sample(list(rows.items()), len(rows))), version
        self.keys = self._make(self.disk)
        self.keys.load(checkpoint)

    def restart(self) -> None:
        self.save()
        self.die()

    def _note(self, at: int, checkpoint: bytes) -> None:
        self._found = at, self.disk.rows.copy(), self.disk.version, checkpoint


@pytest.mark.parametrize("hot_max", [1, 20, EVERYTHING])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", MODELS)
def test_keys_that_are_saved_evicted_and_restored_anywhere_answer_as_if_they_had_not_been(
    kind: str, mode: str, hot_max: int
) -> None:
    """Saves go on beside the stream and fail half way; workers die, and the next ones learn on from the last save."""
    rng = random.Random(f"{kind} {mode} {hot_max}")
    records = stream(kind, count=COUNTS[kind], seed=rng.randrange(10**6))
    expected = told(kind, records, **MODES[mode])
    life = Life(rng, lambda disk: keyring(disk, kind, hot_max=hot_max, **MODES[mode]))
    first = ["save", "fail", "restart", "fail", "die", "save", "begin", "", "write", "arrive", "end", "begin", "lose"]
    while life.at < len(records):
        batch = records[life.at : life.at + rng.randint(1, 20)]
        life.keys.fetch(record.key for record in batch)
        trips = len(life.disk.asked)
        for record in batch:
            assert handle(life.keys, record) == expected[life.at], life.at
            life.at += 1
        assert len(life.disk.asked) == trips, "all that it needed was fetched before"
        life.keys.trim()
        alone = ["save", "begin", "begin", "fail", "restart", "die", "", ""]
        beside = ["end", "end", "lose", "die", "write", "arrive", "", ""]
        event = first.pop(0) if first else rng.choice(alone if life.errand is None else beside)
        if event:
            getattr(life, event)()
        if event == "save":
            assert life.keys.hot <= hot_max


def test_only_the_keys_that_have_changed_are_written() -> None:
    disk = Disk()
    keys = keyring(disk)
    for key in NAMES[:5]:
        handle(keys, Record(key, 0, {"a": 1.0}, label=True))
    assert save(keys, disk).keys() == set(NAMES[:5])
    assert save(keys, disk) == {}
    handle(keys, Record(NAMES[1], 1, {"a": 2.0}))
    handle(keys, Record(NAMES[9], 1, {"a": 2.0}))
    assert save(keys, disk) == {}, "to ask changes nothing"
    handle(keys, Record(NAMES[2], 2, {"a": 2.0}, label=False))
    assert save(keys, disk).keys() == {NAMES[2]}
    assert len(keys) == 5


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "a compiled bank"])
def test_a_model_that_may_draw_what_it_needs_is_born_and_written_when_its_key_is_asked(kind: str) -> None:
    disk = Disk()
    keys = keyring(disk, kind)
    first = handle(keys, Record(b"a", 0, {"a": 2.0}))
    assert save(keys, disk).keys() == {b"a"}
    assert save(keys, disk) == {}
    again = keyring(disk, kind)
    assert handle(again, Record(b"a", 1, {"a": 2.0})) == handle(keys, Record(b"a", 1, {"a": 2.0})) == first
    assert save(keys, disk).keys() == {b"a"}, "and whenever it is asked again"
    keys.meet(b"b", 2, 2)
    assert save(keys, disk).keys() == {b"b"}, "be it that nothing came of it"
    assert len(keys) == 2


def test_of_a_key_that_is_only_asked_no_more_is_gone_through_again_than_since_the_last_save(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MODELS, "counting", Counting)
    disk = Disk()
    keys = keyring(disk, "counting")
    for turn in range(50):
        for _ in range(4):
            handle(keys, Record(b"a", turn, {"a": 2.0}))
        save(keys, disk)
    for _ in range(3):
        handle(keys, Record(b"a", 50, {"a": 2.0}))
    Counting.asked = 0
    assert handle(keys, Record(b"a", 50, {"trap": 1.0}, label=True, trap=True, asked=False)) == "raised"
    # To learn a record it predicts too.
    assert 3 <= Counting.asked <= 4


def test_where_silence_counts_a_key_that_was_only_asked_is_written_too() -> None:
    disk = Disk()
    keys = keyring(disk, silent_ms=SILENT_MS)
    handle(keys, Record(b"a", 7, {"a": 2.0}))
    assert save(keys, disk).keys() == {b"a"}
    assert disk.seen() == {b"a": 7}
    assert len(keys) == 1


def test_silent_keys_are_swept_from_the_store_and_come_back_as_new() -> None:
    disk = Disk()
    keys = keyring(disk, hot_max=1, silent_ms=SILENT_MS)
    for key in NAMES:
        handle(keys, Record(key, 0, {"a": 1.0}, label=True))
    save(keys, disk)
    handle(keys, Record(b"late", SILENT_MS, {"a": 1.0}, label=True))
    for _ in range(5):
        save(keys, disk)
    assert len(keys) == 61, "at the last moment they are not silent yet"
    handle(keys, Record(b"late", SILENT_MS + 1, {"a": 1.0}, label=True))
    for _ in range(5):
        save(keys, disk)
    assert disk.rows.keys() == {b"late"}
    assert len(keys) == 1
    blank = handle(keyring(Disk()), Record(NAMES[0], 0, {"a": 1.0}))
    assert handle(keys, Record(NAMES[0], SILENT_MS + 2, {"a": 1.0})) == blank


def test_a_row_is_swept_as_it_is_and_not_as_it_was_when_the_sweep_began() -> None:
    """Each key comes back at the last moment, and is let go of from memory at once."""
    disk, at_ms = Disk(), 0
    keys = keyring(disk, hot_max=1, silent_ms=6 * len(NAMES))
    for key in NAMES:
        handle(keys, Record(key, at_ms, {"a": 1.0}, label=True))
    save(keys, disk)
    for turn in range(300):
        at_ms += 6
        handle(keys, Record(NAMES[turn % len(NAMES)], at_ms, {"a": 1.0}))
        handle(keys, Record(b"busy", at_ms, {"a": 1.0}))
        assert None not in save(keys, disk).values(), turn
    assert disk.rows.keys() == {*NAMES, b"busy"}


def test_a_sweep_looks_at_a_whole_page_with_each_save() -> None:
    disk = Disk()
    keys = keyring(disk, hot_max=1, silent_ms=SILENT_MS)
    for key in NAMES:
        handle(keys, Record(key, 0, {"a": 1.0}, label=True))
    save(keys, disk)
    handle(keys, Record(b"late", 0, {"a": 1.0}))
    save(keys, disk)
    handle(keys, Record(b"late", SILENT_MS + 1, {"a": 1.0}))
    # The first page has been looked at, when nobody was silent yet.
    taken = [sum(row is None for row in save(keys, disk).values()) for _ in range(4)]
    assert all(count >= 11 for count in taken), taken
    assert sum(taken) >= 58


@pytest.mark.parametrize("kind", MODELS)
def test_rows_from_before_silence_counted_are_not_swept_and_not_forgotten(kind: str) -> None:
    disk = Disk()
    before, ever = keyring(disk, kind), keyring(Disk(), kind)
    for key in NAMES[:20]:
        for keys in (before, ever):
            handle(keys, Record(key, 10, {"a": 3.0}, label=True))
    save(before, disk)
    assert set(disk.seen().values()) == {-1}
    keys = keyring(disk, kind, hot_max=1, silent_ms=SILENT_MS)
    keys.load(before.dump())
    handle(keys, Record(b"late", 10 * SILENT_MS, {"a": 1.0}))
    for _ in range(5):
        save(keys, disk)
    assert len(keys) == 21
    probe = {"a": 1.5}
    back, asleep = NAMES[3], NAMES[4]
    for key in (back, asleep):
        answer = handle(keys, Record(key, 10 * SILENT_MS, probe))
        assert answer == handle(ever, Record(key, 10 * SILENT_MS, probe)), "it has not been silent for any time yet"
    save(keys, disk)
    handle(keys, Record(back, 11 * SILENT_MS + 1, probe))
    swept = [key for _ in range(5) for key, row in save(keys, disk).items() if row is None]
    assert sorted(swept) == sorted([asleep, b"late"]), "from then on its silence counts"


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("swept", [True, False])
def test_a_late_label_for_a_silent_key_is_learned_by_one_that_is_born_of_all(kind: str, *, swept: bool) -> None:
    records = [
        *(Record(b"a", 0, {"a": 1.0 + n}, label=n < 3) for n in range(6)),
        *(Record(b"b", SILENT_MS + 1, {"a": 2.0 - n}, label=n < 5) for n in range(6)),
        Record(b"a", 0, {"a": 4.0}, label=True, asked=False),
        Record(b"a", SILENT_MS + 2, {"a": 0.5}),
        Record(b"b", SILENT_MS + 2, {"a": 0.5}),
    ]
    expected = told(kind, records, prior=True, silent_ms=SILENT_MS)
    assert expected[-2] != told(kind, [*records[6:-1]], prior=False, silent_ms=None)[-1]
    disk = Disk()
    keys = keyring(disk, kind, hot_max=1, prior=True, silent_ms=SILENT_MS)
    for record, answer in zip(records, expected, strict=True):
        if swept:
            save(keys, disk)
        assert handle(keys, record) == answer


def with_a_silent_key(disk: Disk) -> Keyring:
    """Return a keyring with two keys in the store, of which `a` was silent for too long."""
    keys = keyring(disk, hot_max=1, silent_ms=SILENT_MS)
    for key in (b"a", b"b"):
        handle(keys, Record(key, 0, {"a": 1.0}, label=True))
    save(keys, disk)
    handle(keys, Record(b"b", SILENT_MS + 1, {"a": 1.0}))
    return keys


def test_a_silent_key_that_comes_back_while_it_is_swept_is_one_row_whether_that_was_taken_or_not() -> None:
    for taken in (False, True):
        disk = Disk()
        keys = with_a_silent_key(disk)
        fail(keys)
        assert fail(keys)[b"a"] is None
        assert len(keys) == 1
        if taken:
            disk.rows.pop(b"a")
        trips = len(disk.asked)
        blank = handle(keyring(Disk()), Record(b"a", 0, {"a": 1.0}))
        assert handle(keys, Record(b"a", SILENT_MS + 2, {"a": 1.0})) == blank
        assert len(disk.asked) == trips, "what is forgotten need not be fetched"
        assert save(keys, disk).keys() == {b"a", b"b"}
        assert len(keys) == 2


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_rows_that_a_save_has_taken_before_it_failed_are_not_missed(taken: int) -> None:
    disk = Disk()
    keys = keyring(disk, hot_max=1, silent_ms=SILENT_MS)
    for key in NAMES[:5]:
        handle(keys, Record(key, 0, {"a": 1.0}, label=True))
    save(keys, disk)
    for key in NAMES[2:5]:
        handle(keys, Record(key, SILENT_MS + 1, {"a": 1.0}))
    assert sum(row is None for row in fail(keys).values()) == 2
    disk.write([(key, None) for key in NAMES[:taken]])
    disk.is_half_written = True
    # One comes back, of one a refused record is all that comes, and one was never there.
    keys.fetch([NAMES[0], NAMES[1]])
    keys.fetch([b"new"])
    handle(keys, Record(NAMES[0], SILENT_MS + 2, {"a": 1.0}))
    keys.fetch([b"newer"])
    assert fail(keys)[NAMES[1]] is None, "what is only warm is still to go"
    assert len(keys) == 4
    keys.fetch([b"newest"])
    save(keys, disk)
    assert disk.rows.keys() == {NAMES[0], *NAMES[2:5]}
    keys.fetch(NAMES)


def test_rows_that_nobody_took_are_missed() -> None:
    disk = Disk()
    keys = keyring(disk, hot_max=1, silent_ms=SILENT_MS)
    for key in NAMES[:5]:
        handle(keys, Record(key, 0, {"a": 1.0}, label=True))
    save(keys, disk)
    handle(keys, Record(NAMES[4], SILENT_MS + 1, {"a": 1.0}))
    fail(keys)
    save(keys, disk)
    assert len(keys) == 1
    del disk.rows[NAMES[4]]
    keys.fetch([b"other"])
    keys.trim()
    with pytest.raises(TableDamaged, match="there were 1"):
        keys.fetch([b"new"])


def test_the_cold_keys_of_a_batch_are_fetched_in_one_call() -> None:
    disk = Disk()
    keys = keyring(disk, hot_max=3)
    for key in NAMES[:10]:
        handle(keys, Record(key, 0, {"a": 1.0}, label=True))
    save(keys, disk)
    disk.asked.clear()
    keys.fetch(NAMES[index] for index in (9, 2, 2, 8, 20, 3, 2))
    assert disk.asked == [[NAMES[2], NAMES[20], NAMES[3]]]
    keys.fetch(NAMES[index] for index in (9, 2, 20))
    assert len(disk.asked) == 1, "also that a key has no row is known"


def test_nothing_is_fetched_until_a_key_that_was_saved_has_been_let_go() -> None:
    disk = Disk()
    keys = keyring(disk, hot_max=4)
    for saved in (False, True):
        for key in NAMES[3 * saved : 3 * saved + 3]:
            handle(keys, Record(key, 0, {"a": 1.0}, label=True))
            keys.fetch([b"never learned"])
        assert not disk.asked, "all that the store has is in memory"
        save(keys, disk)
    keys.fetch([NAMES[0]])
    assert disk.asked == [[NAMES[0]]]
    handle(keys, Record(NAMES[0], 0, {"a": 1.0}, label=True))
    keys.fetch([b"new"])
    assert disk.asked[1:] == [[b"new"]], "others may be in the store"


def test_trim_keeps_what_is_not_saved_and_lets_the_longest_unused_go_of_what_is() -> None:
    disk = Disk()
    keys = keyring(disk, hot_max=2)
    for key in NAMES[:5]:
        handle(keys, Record(key, 0, {"a": 1.0}, label=True))
    keys.trim()
    assert (keys.hot, keys.is_crowded, len(keys)) == (5, True, 5)
    handle(keys, Record(NAMES[0], 0, {"a": 1.0}))
    save(keys, disk)
    assert (keys.hot, keys.is_crowded, len(keys)) == (2, False, 5)
    disk.asked.clear()
    keys.fetch([NAMES[0], NAMES[4]])
    assert disk.asked == [], "these two were used last"
    keys.fetch(NAMES)
    assert (keys.hot, keys.is_crowded) == (60, False), "none of them waits for a save"
    keys.trim()
    assert keys.hot == 2


def test_what_many_saved_keys_leave_behind_is_let_go_a_few_at_a_time() -> None:
    disk = Disk()
    keys = keyring(disk, hot_max=10)
    for index in range(5_010):
        handle(keys, Record(b"key %d" % index, 0, {"a": 1.0}, label=True))
    keys.trim()
    assert (keys.hot, keys.is_full) == (5_010, True)
    save(keys, disk)
    assert (keys.hot, keys.is_crowded, keys.is_full) == (4_010, False, False), "a thousand, which takes a millisecond"
    keys.fetch(b"cold %d" % index for index in range(600))
    keys.trim()
    assert keys.hot == 4_610 - 2_200, "more than have come"


@pytest.mark.parametrize("kind", MODELS)
def test_a_new_key_begins_as_the_model_of_all_keys_stands_and_goes_its_own_way(kind: str) -> None:
    keys, all_of_them = keyring(Disk(), kind, prior=True), learner_of(kind)
    for record in stream(kind, count=120, seed=5):
        if record.trap or record.label is None:
            continue
        handle(keys, record)
        all_of_them.learn(record.features.copy(), record.label)
    probe = Record(b"born now", 0, {"a": 1.5, "b": -1.0, "c": 4.0})
    assert handle(keys, probe) == bits(all_of_them.predict(probe.features.copy()))
    handle(keys, Record(b"another", 0, {"a": 1.0, "b": 2.0}, label=False))
    assert handle(keys, probe) == bits(all_of_them.predict(probe.features.copy())), "it is its own since then"


def test_the_first_key_of_all_begins_as_the_factory_makes_it() -> None:
    keys = keyring(Disk(), prior=True)
    assert handle(keys, Record(b"a", 0, {"a": 1.0})) == bits(learner_of("a compiled bank").predict({"a": 1.0}))
    assert fail(keys) == {}


@pytest.mark.parametrize("row", [b"", b"\xc1", b"no row", msgspec.msgpack.encode([1]), msgspec.msgpack.encode("x")])
def test_a_row_that_is_none_is_refused_by_the_name_of_its_key(row: bytes) -> None:
    disk = Disk()
    disk.rows[b"card 7"] = row
    with pytest.raises(TableDamaged, match="card 7"):
        keyring(disk).fetch([b"card 7"])
    with pytest.raises(TableDamaged, match="card 7"):
        fail(keyring(disk, silent_ms=SILENT_MS))


@pytest.mark.parametrize("kind", MODELS)
def test_a_row_whose_model_is_none_is_refused_by_the_name_of_its_key(kind: str) -> None:
    disk = Disk()
    disk.rows[b"card 7"] = msgspec.msgpack.encode(KeyRow(5, b"no model"))
    keys = keyring(disk, kind)
    with pytest.raises(TableDamaged, match="card 7"):
        keys.fetch([b"card 7"])


def test_a_snapshot_that_is_none_is_refused() -> None:
    with pytest.raises(ModelError):
        keyring(Disk()).load(b"something else")


def test_a_fetch_that_fails_leaves_the_keyring_as_it_was() -> None:
    class AwayError(Exception):
        pass

    def away(_keys: Sequence[bytes], _stand: TableVersion) -> list[bytes | None]:
        raise AwayError

    keys = Keyring(made("a compiled bank"), fetch=away, scan=Disk().scan, hot_max=5)
    keys.resume(TableVersion(EPOCH, 1, 3))
    with pytest.raises(AwayError):
        keys.fetch([b"a"])
    with pytest.raises(AwayError):
        keys.meet(b"a", 0, 0)
    assert (keys.hot, len(keys), fail(keys)) == (0, 3, {})


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "a compiled bank"])
def test_a_record_that_raises_harms_neither_its_key_nor_the_model_of_all(kind: str) -> None:
    keys, others = (keyring(Disk(), kind, prior=True) for _ in range(2))
    for record in stream(kind, count=150, seed=3):
        handle(keys, record)
        if not record.trap:
            handle(others, record)
        elif record.asked:
            others.meet(record.key, record.at_ms, record.at_ms)
    for name in (*NAMES, b"new"):
        probe = Record(name, 0, {"a": 1.0, "b": 2.0})
        assert handle(keys, probe) == handle(others, probe), name


@pytest.mark.parametrize("kind", MODELS)
def test_a_record_that_raises_does_not_bring_back_what_silence_has_made_forgotten(kind: str) -> None:
    disk = Disk()
    keys = keyring(disk, kind, silent_ms=SILENT_MS)
    handle(keys, Record(b"a", 0, {"a": 1.0}, label=True))
    save(keys, disk)
    handle(keys, Record(b"a", 1, {"a": 2.0}, label=True))
    trap = "no number" if kind == "a compiled bank" else 1.0
    again = SILENT_MS + 2
    assert handle(keys, Record(b"a", again, {"a": 1.0, "trap": trap}, label=True, trap=True)) == "raised"
    assert handle(keys, Record(b"a", again, {"a": 1.0})) == handle(keyring(Disk(), kind), Record(b"a", 0, {"a": 1.0}))


def test_the_time_of_the_stream_goes_on_where_it_was_saved() -> None:
    disk = Disk()
    keys = keyring(disk, silent_ms=SILENT_MS)
    handle(keys, Record(b"a", 0, {"a": 1.0}, label=True))
    handle(keys, Record(b"b", SILENT_MS + 1, {"a": 1.0}, label=True))
    save(keys, disk)
    restored = keyring(disk, silent_ms=SILENT_MS)
    restored.load(keys.dump())
    late = Record(b"a", 0, {"a": 1.0})
    assert handle(restored, late) == handle(keys, late) == handle(keyring(Disk()), late)


def test_to_look_at_a_key_lets_no_time_pass() -> None:
    keys = keyring(Disk(), silent_ms=SILENT_MS)
    for at_ms in range(30):
        handle(keys, Record(b"a", at_ms, {"a": 1.0}, label=True))
    before = keys.dump()
    keys.recall(b"a")
    assert keys.dump() == before


def test_the_keyring_tells_its_task_codec_and_spec_as_its_bank_does() -> None:
    bank = made("a compiled bank")
    keys = keyring(Disk())
    assert (keys.task, keys.codec, keys.spec, keys.version) == (bank.task, bank.codec, bank.spec, None)
    assert keys.label(1) is True


def test_a_swept_key_that_was_only_warmed_is_a_row_again_when_it_comes_back() -> None:
    disk = Disk()
    keys = keyring(disk, hot_max=2, silent_ms=400)
    for key in (b"a", b"b", b"c"):
        handle(keys, Record(key, 0, {"a": 1.0}, True))
    save(keys, disk)
    handle(keys, Record(b"c", 401, {"a": 1.0}))
    fail(keys)
    keys.fetch([b"a"])
    save(keys, disk)
    handle(keys, Record(b"a", 402, {"a": 1.0}))
    save(keys, disk)


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "a compiled bank"])
@pytest.mark.parametrize("rebuilt", [True, False])
def test_an_undo_after_a_save_keeps_what_was_learned_while_it_was_under_way(kind: str, *, rebuilt: bool) -> None:
    disk, twin = Disk(), keyring(Disk(), kind)
    keys = keyring(disk, kind)
    good = [Record(b"a", 0, {"a": 1.0 + step, "b": 2.0}, label=step % 3 == 0) for step in range(40)]
    trap = Record(b"a", 0, {"a": 1.0, "trap": 1.0}, label=True, trap=True)
    for record in good[:20]:
        handle(keys, record)
    keys.begin_save()
    (changes, models), told = rows_to_save(keys), len(keys)
    for record in good[20:30]:
        handle(keys, record)
    if rebuilt:
        assert handle(keys, trap) == "raised"
    for record in good[30:]:
        handle(keys, record)
    bring(disk, changes, told)
    keys.saved(models, disk.version)
    assert handle(keys, trap) == "raised"
    for record in good:
        handle(twin, record)
    assert handle(keys, good[0]) == handle(twin, good[0])


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("comes", ["to nothing", "back", "back twice"])
@pytest.mark.parametrize("goes_well", [True, False])
def test_a_key_that_comes_back_while_its_row_is_being_deleted_is_known_for_what_it_is(
    comes: str, *, taken: bool, goes_well: bool
) -> None:
    disk = Disk()
    keys = with_a_silent_key(disk)
    keys.begin_save()
    (changes, models), told = rows_to_save(keys), len(keys)
    assert changes[b"a"] is None
    disk.is_half_written = True
    if taken:
        disk.rows.pop(b"a")
    keys.fetch([b"a"])
    blank = handle(keyring(Disk()), Record(b"a", 0, {"a": 1.0}))
    for _ in range(["to nothing", "back", "back twice"].index(comes)):
        assert handle(keys, Record(b"a", SILENT_MS + 2, {"a": 1.0})) == blank
    if goes_well:
        bring(disk, changes, told)
        keys.saved(models, disk.version)
    else:
        keys.not_saved()
    assert len(keys) == 2 - (comes == "to nothing")
    save(keys, disk)
    assert disk.rows.keys() == ({b"b"} if comes == "to nothing" else {b"a", b"b"})
    handle(keys, Record(b"a", SILENT_MS + 3, {"a": 1.0}, label=True))
    save(keys, disk)
    assert disk.rows.keys() == {b"a", b"b"}


def test_a_save_that_is_under_way_counts_for_what_should_be_in_memory() -> None:
    disk = Disk()
    keys = keyring(disk, hot_max=2)
    for key in NAMES[:3]:
        handle(keys, Record(key, 0, {"a": 1.0}, label=True))
    keys.begin_save()
    (changes, models), told = rows_to_save(keys), len(keys)
    assert (keys.is_crowded, keys.is_full) == (True, False)
    disk.is_half_written = True
    for key in NAMES[3:5]:
        handle(keys, Record(key, 0, {"a": 1.0}, label=True))
    keys.trim()
    assert (keys.hot, keys.is_full, len(keys)) == (5, True, 5)
    bring(disk, changes, told)
    keys.saved(models, disk.version)
    assert (keys.hot, keys.is_full) == (2, False), "those that changed meanwhile"
    assert save(keys, disk).keys() == set(NAMES[3:5])


def test_many_rows_are_heavy_and_those_of_big_models_sooner() -> None:
    keys = keyring(Disk())
    for index in range(501):
        assert not keys.is_heavy
        handle(keys, Record(b"key %d" % index, 0, {"a": 1.0}, label=True))
    assert keys.is_heavy
    fail(keys)
    assert keys.is_heavy, "it is to be saved still"
    keys.begin_save()
    assert not keys.is_heavy
    big = keyring(Disk(), "a trees' bank")
    for index in range(501):
        if big.is_heavy:
            break
        handle(big, Record(b"key %d" % index, 0, {"a": 1.0}, label=True))
    assert 10 < index < 200


def test_the_rows_of_many_keys_of_all_lengths_are_packed_as_one_by_one() -> None:
    keys, chance = keyring(Disk(), silent_ms=2**40), random.Random(3)
    for index in range(4_000):
        key = bytes([chance.randrange(256)]) * chance.randint(1, 40) + b"%d" % (index % 3_000)
        features = {name: chance.gauss(0, 1) for name in chance.sample("abc", chance.randint(0, 3))}
        at_ms = chance.choice([index, 2**33 + index])
        handle(keys, Record(key, at_ms, features, label=chance.random() < 0.5))
    for _ in range(300):
        handle(keys, Record(b"busy", 2**33, {"a": 1.0}, label=True))
    handle(keys, Record(b"wide", 2**33, {f"f{index}": 1.0 for index in range(100)}, label=True))
    keys.meet(b"only met", 2**33, 2**33)
    keys.begin_save()
    packed, _ = keys.packed(lambda table: SEAL.rows(3, table))
    assert rows_of(packed[TABLE]) == one_by_one(keys)
    assert max(map(len, packed[TABLE].chunks)) <= 1_100_000
