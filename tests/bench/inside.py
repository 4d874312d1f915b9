"""Measures the join and the models by key without Kafka: time for a record, and memory while a million wait.

    python inside.py {join WAITING | batch {hot,cold} | keys COUNT}

Each measurement is a process, so that its memory can be measured. It prints its figures as JSON: bytes, and
microseconds of CPU time, since other programs may use the machine.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from meter import PeerFailed, resident_bytes
from model import build
from stream import events

from headrace.state.compiled.vocabulary import RecordVocabulary
from headrace.state.keyed.bank_choice import bank_of
from headrace.state.keyed.key_row import KeyRow
from headrace.state.keyed.keyring import Keyring
from headrace.state.labels.join_entry import Entry
from headrace.state.labels.label_join import LabelRules, Labels
from headrace.state.models.columns import FeatureColumns
from headrace.state.models.learner import RiverLearner
from headrace.state.row_packing import TableVersion

BATCH = 5_000
MILLION = 1_000_000
MEASURES = (
    ("join", "1000"),
    ("join", str(MILLION)),
    ("batch", "hot"),
    ("batch", "cold"),
    ("keys", str(MILLION)),
)

Figures = dict[str, dict[str, float]]
"""The figures by name: `record_us`, the same `with_save_us`, `rss_bytes` at the peak, `each_bytes` of it."""

_DAY_MS = 86_400_000
_ROUNDS = 20
_WARM_ROUNDS = 20
_TEMPLATES = 1_000
_END_S = 600.0


def measure(words: Sequence[str]) -> Figures:
    """Make one measurement in a new process. Raises PeerFailed."""
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_END_S, check=False)
    if done.returncode:
        raise PeerFailed("\n".join([f"{' '.join(words)} failed:", *done.stderr.strip().splitlines()[-5:]]))
    found: Figures = json.loads(done.stdout)
    return found


def join(waiting: int) -> Figures:
    """Let this number of features wait; for each label that comes, let another record wait."""
    labels = Labels(LabelRules(wait_ms=_DAY_MS))
    values = _values()
    started_bytes = resident_bytes(os.getpid())[0]
    for start in range(0, waiting, BATCH):
        for id_, entry in _asking(start, min(waiting, start + BATCH), values):
            labels.add_waiting(id_, entry)
        _save_labels(labels)
    spent_s, answered = 0.0, (_WARM_ROUNDS + _ROUNDS) * BATCH
    for start in range(0, answered, BATCH):
        # The maximum number waits, so one must leave before another comes.
        asking = _asking(waiting + start, waiting + start + BATCH, values)
        ids = [f"r-{index}" for index in range(start, start + BATCH)]
        began_s = time.process_time()
        for id_, (newer, entry) in zip(ids, asking, strict=True):
            _, found = labels.match(id_, True, at_ms=None, logged_ms=start, order=start)
            labels.note_learned(id_, found, True)
            labels.add_waiting(newer, entry)
        if start >= _WARM_ROUNDS * BATCH:
            spent_s += time.process_time() - began_s
        _save_labels(labels)
    if (labels.asked, labels.tally.joined, labels.tally.evicted) != (waiting, answered, 0):
        raise PeerFailed(f"of {answered} labels {labels.tally.joined} found their features")
    record_us = 1e6 * spent_s / (_ROUNDS * BATCH)
    return {f"join.{waiting}": {"record_us": record_us, **_grown(started_bytes, waiting)}}


def _asking(start: int, end: int, values: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, Entry]]:
    """Return entries with separate bytes, as they come from Kafka."""
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
    """Return the values of some records without labels, cut in two at the id."""
    found = []
    for event in events(_TEMPLATES):
        del event["label"]
        before, _, after = json.dumps({**event, "id": "|"}).encode().partition(b"|")
        found.append((before, after))
    return found


def _save_labels(labels: Labels) -> None:
    labels.begin_save()
    labels.changes()
    labels.saved()


class Rows(dict[bytes, bytes]):
    """A store in memory: rows by key."""

    def fetch(self, keys: Sequence[bytes], _stand: TableVersion) -> list[bytes | None]:
        """Return rows; None for a row that does not exist."""
        return [self.get(key) for key in keys]

    def ring(self, hot_max: int) -> Keyring:
        """Return a keyring of the bench's model over these rows."""
        bank = bank_of(RiverLearner(build()), compiles=True)
        return Keyring(bank, fetch=self.fetch, scan=lambda: iter([list(self.items())]), hot_max=hot_max)


class Batches:
    """Batches of records of this number of keys, `hot` in memory or cold in the store, and their times so far."""

    def __init__(self, keys: int, *, hot: bool) -> None:
        self._rows = Rows()
        self._ring = self._rows.ring(BATCH if hot else 0)
        self._keys = [f"k-{index % keys}".encode() for index in range(BATCH)]
        self._columns, self._labels = columns(list(events(BATCH)))
        self.learn_s = 0.0
        self.save_s = 0.0

    def turn(self, *, counts: bool) -> int:
        """Learn a batch, then save; return the number of keys with a row."""
        began_s = time.process_time()
        _learn(self._ring, self._keys, self._columns, self._labels)
        learned_s = time.process_time()
        self._rows.update(_save(self._ring))
        if counts:
            self.learn_s += learned_s - began_s
            self.save_s += time.process_time() - learned_s
        return len(self._rows)


def batch(place: str) -> Figures:
    """Learn in turn a batch of one key, and a batch with a key for each record."""
    found = {keys: Batches(keys, hot=place == "hot") for keys in (1, BATCH)}
    for turn in range(_WARM_ROUNDS + _ROUNDS):
        for keys, batches in found.items():
            if (rows := batches.turn(counts=turn >= _WARM_ROUNDS)) != keys:
                raise PeerFailed(f"{rows} of {keys} keys have a model")
    each = 1e6 / (_ROUNDS * BATCH)
    return {
        f"batch.{keys}.{place}": {"record_us": each * b.learn_s, "with_save_us": each * (b.learn_s + b.save_s)}
        for keys, b in found.items()
    }


def keys(count: int) -> Figures:
    """Learn one record for each of this number of keys, and keep all keys in memory."""
    ring = Rows().ring(count)
    some = list(events(_TEMPLATES))
    batch_columns, labels = columns(some * (BATCH // _TEMPLATES))
    started_bytes = resident_bytes(os.getpid())[0]
    numbers = iter(range(count))
    while chunk := list(islice(numbers, BATCH)):
        _learn(ring, [f"k-{index}".encode() for index in chunk], batch_columns, labels)
        # The memory of the store does not belong to this process, so drop the rows.
        _save(ring)
    if ring.hot != count:
        raise PeerFailed(f"{ring.hot} of {count} keys are in memory")
    return {f"keys.{count}": _grown(started_bytes, count)}


def columns(records: Sequence[dict[str, Any]]) -> tuple[FeatureColumns, Any]:
    """Return the features of records as columns, and their labels (float64)."""
    vocabulary = RecordVocabulary()
    parts = [vocabulary.columns(event["features"]) for event in records]
    starts = np.cumsum([0, *(len(part.names) for part in parts)])
    names, kinds, values = (np.concatenate([part[at] for part in parts]) for at in (1, 2, 3))
    return FeatureColumns(starts, names, kinds, values, vocabulary), np.array([float(e["label"]) for e in records])


def _learn(ring: Keyring, keys: Sequence[bytes], batch_columns: FeatureColumns, labels: Any) -> None:
    """Do the engine's work on a batch, without reading and writing it."""
    if ring.learn_batch(batch_columns, labels, keys=keys) is None:
        raise PeerFailed("the models take no batch")
    ring.trim()


def _save(ring: Keyring) -> dict[bytes, bytes]:
    ring.begin_save()
    keys = list(ring._saving.changed)
    models = zip(keys, ring._bank.dump_all(keys), strict=True)
    rows = {key: msgspec.msgpack.encode(KeyRow(ring._hot[key].seen_ms, model)) for key, model in models}
    ring.saved({}, 1)
    return rows


def _grown(started_bytes: int, count: int) -> dict[str, float]:
    peak = resident_bytes(os.getpid())[0]
    return {"rss_bytes": peak, "each_bytes": (peak - started_bytes) / count}


def main(kind: str, word: str) -> None:
    """Make one measurement and print its figures."""
    found = batch(word) if kind == "batch" else {"join": join, "keys": keys}[kind](int(word))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
