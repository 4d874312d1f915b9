"""What the join and the models of keys cost without Kafka: time a record, and memory where a million of them wait.

    python memory.py {join WAITING | batch KEYS {hot,cold} | keys COUNT}

Each measurement is a process of its own, so that its memory is its own, and prints its figures as JSON.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

from meter import PeerFailed, peak_bytes
from model import build
from stream import events

from state.keyring import Keyring
from state.labels import Entry, Labels, Rules
from state.slab import slab_for

BATCH = 5_000
MILLION = 1_000_000
MEASURES = (
    ("join", "1000"),
    ("join", str(MILLION)),
    ("batch", "1", "hot"),
    ("batch", str(BATCH), "hot"),
    ("batch", "1", "cold"),
    ("batch", str(BATCH), "cold"),
    ("keys", str(MILLION)),
)
"""Each after the one that it is held against, if there is one."""

_DAY_MS = 86_400_000
_ROUNDS = 40
_WARM_ROUNDS = 20
_TEMPLATES = 1_000
_END_S = 600.0


def measure(words: Sequence[str]) -> dict[str, float]:
    """Make one measurement in a process of its own. Raises PeerFailed."""
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_END_S, check=False)
    if done.returncode:
        raise PeerFailed("\n".join([f"{' '.join(words)} failed:", *done.stderr.strip().splitlines()[-5:]]))
    found: dict[str, float] = json.loads(done.stdout)
    return found


def join(waiting: int) -> dict[str, float]:
    """Let so many features wait, and for each label that comes let another record ask."""
    labels = Labels(Rules(wait_ms=_DAY_MS))
    values = _values()
    started_bytes = peak_bytes(os.getpid())
    for start in range(0, waiting, BATCH):
        for id_, entry in _asking(start, min(waiting, start + BATCH), values):
            labels.ask(id_, entry)
        _save_labels(labels)
    spent_s, answered = 0.0, (_WARM_ROUNDS + _ROUNDS) * BATCH
    for start in range(0, answered, BATCH):
        # As many as may wait do, so one goes before another comes.
        asking = _asking(waiting + start, waiting + start + BATCH, values)
        ids = [f"r-{index}" for index in range(start, start + BATCH)]
        began_s = time.perf_counter()
        for id_, (newer, entry) in zip(ids, asking, strict=True):
            _, found = labels.take(id_, True, at_ms=None, logged_ms=start, order=start)
            labels.settle(id_, found, True)
            labels.ask(newer, entry)
        if start >= _WARM_ROUNDS * BATCH:
            spent_s += time.perf_counter() - began_s
        _save_labels(labels)
    if (labels.asked, labels.tally.joined, labels.tally.evicted) != (waiting, answered, 0):
        raise PeerFailed(f"of {answered} labels {labels.tally.joined} found their features")
    return {"record_us": 1e6 * spent_s / (_ROUNDS * BATCH), **_grown(started_bytes, waiting)}


def _asking(start: int, end: int, values: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, Entry]]:
    """Return entries of bytes of their own, as they come from Kafka."""
    found = []
    for index in range(start, end):
        before, after = values[index % _TEMPLATES]
        id_ = f"r-{index}"
        entry = Entry.of(
            at_ms=index, logged_ms=index, order=index, value=before + id_.encode() + after,
            key=f"k-{index}".encode(), answer=True, version=1,
        )  # fmt: skip
        found.append((id_, entry))
    return found


def _values() -> list[tuple[bytes, bytes]]:
    """Return the values of some records, without label, cut where the id is."""
    found = []
    for event in events(_TEMPLATES):
        del event["label"]
        before, _, after = json.dumps({**event, "id": "|"}).encode().partition(b"|")
        found.append((before, after))
    return found


def _save_labels(labels: Labels) -> None:
    labels.changes()
    labels.saved()


class Rows(dict[bytes, bytes]):
    """What the store holds, in memory: rows by key."""

    def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return rows, None for one that is not there."""
        return [self.get(key) for key in keys]

    def ring(self, hot_max: int) -> Keyring:
        """Return a keyring of the bench's model over these rows."""
        slab = slab_for(build())
        assert slab is not None
        return Keyring(slab, fetch=self.fetch, scan=lambda: iter(self.items()), hot_max=hot_max)


def batch(keys: int, place: str) -> dict[str, float]:
    """Learn batches of records of so many keys, hot in memory or cold in the store, and save after each."""
    rows = Rows()
    ring = rows.ring(0 if place == "cold" else BATCH)
    records = [(f"k-{index % keys}".encode(), event) for index, event in enumerate(events(BATCH))]
    learn_s, save_s = 0.0, 0.0
    for turn in range(_WARM_ROUNDS + _ROUNDS):
        began_s = time.perf_counter()
        _learn(ring, records)
        learned_s = time.perf_counter()
        rows.update(_save(ring))
        if turn >= _WARM_ROUNDS:
            learn_s += learned_s - began_s
            save_s += time.perf_counter() - learned_s
    if len(rows) != keys:
        raise PeerFailed(f"{len(rows)} of {keys} keys have a model")
    each = 1e6 / (_ROUNDS * BATCH)
    return {"record_us": each * learn_s, "with_save_us": each * (learn_s + save_s), "rss_bytes": _grown(0, 1)["rss_bytes"]}


def keys(count: int) -> dict[str, float]:
    """Teach so many keys a record each, and keep all of them in memory."""
    ring = Rows().ring(count)
    some = list(events(_TEMPLATES))
    started_bytes = peak_bytes(os.getpid())
    numbers = iter(range(count))
    while chunk := list(islice(numbers, BATCH)):
        _learn(ring, [(f"k-{index}".encode(), some[index % _TEMPLATES]) for index in chunk])
        # The store's own memory is not this process's, so the rows go.
        _save(ring)
    if ring.hot != count:
        raise PeerFailed(f"{ring.hot} of {count} keys are in memory")
    return _grown(started_bytes, count)


def _learn(ring: Keyring, records: Sequence[tuple[bytes, dict[str, Any]]]) -> None:
    """Do with a batch what the engine does, apart from reading and writing it."""
    ring.warm(key for key, _ in records)
    for key, event in records:
        ring.meet(key, event["ts"])
        features = event["features"]
        ring.predict(key, features)
        ring.learn(key, features, event["label"])
        ring.keep(key, features, event["label"])
    ring.trim()


def _save(ring: Keyring) -> dict[bytes, bytes]:
    changes = ring.changes()
    ring.saved(changes)
    return {key: row for key, row in changes.items() if row is not None}


def _grown(started_bytes: int, count: int) -> dict[str, float]:
    peak = peak_bytes(os.getpid())
    return {"rss_bytes": peak, "each_bytes": (peak - started_bytes) / count}


def main(kind: str, number: str, place: str = "hot") -> None:
    """Make one measurement and print its figures."""
    found = batch(int(number), place) if kind == "batch" else {"join": join, "keys": keys}[kind](int(number))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
