"""One suite over every compiled model: by key, each key is answered as by a River model of its own, to the bit.

Records come in batches that are cut anywhere, or one by one; models are saved as rows, let go and fetched again.
"""

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from flood import Record
from packed import rows_to_save
from twin import Census, River, Said, Words, compilable, food
from zoo import ZOO

from headrace.state.keyed.bank import RiverBank
from headrace.state.keyed.bank_choice import bank_of
from headrace.state.keyed.keyring import Keyring
from headrace.state.models.learner import RiverLearner
from headrace.state.row_packing import TableVersion

pytestmark = pytest.mark.timeout(60)
KEYS = [b"a", b"b", b"", b"often", b"late"]

Keyed = tuple[bytes, dict[str, Any], Any]


def keyed(name: str) -> list[Keyed]:
    """Give each record a key; one key comes only late."""
    draw, records = random.Random(name), food(name)
    return [
        (draw.choice(KEYS[: 4 + (at > len(records) // 2)] + [b"often"] * 3), features, label)
        for at, (features, label) in enumerate(records)
    ]


class Rivers:
    """A River model for each key; with a prior, a key begins as a copy of what has learned all records so far."""

    def __init__(self, name: str, *, prior: bool) -> None:
        self._name = name
        self._prior = River(ZOO[name].build()) if prior else None
        self._has_learned = False
        self._models: dict[bytes, River] = {}

    def take(self, key: bytes, features: dict[str, Any], label: Any) -> Said:
        model = self._models.get(key)
        if model is None and self._prior is not None and self._has_learned:
            model = River(copy.deepcopy(self._prior.learner.model))
            self._models[key] = model
        model = model or River(ZOO[self._name].build())
        if label is None or self._prior is None:
            said = model.take(features, label)
        else:
            said = self._take_both(self._prior, model, features, label)
        if label is not None and not isinstance(said, Exception):
            self._models[key], self._has_learned = model, True
        return said

    @staticmethod
    def _take_both(prior: River, model: River, features: dict[str, Any], label: Any) -> Said:
        """Teach both models, or neither if one of them raises."""
        before = copy.deepcopy(prior)
        told = prior.take(features, label)
        if isinstance(told, Exception):
            return told
        said = model.take(features, label)
        if isinstance(said, Exception):
            prior.learner, prior._kept, prior._since = before.learner, before._kept, before._since
        return said


class Ring:
    """A keyring over the rows that it has saved."""

    def __init__(self, name: str, *, prior: bool) -> None:
        self.rows: dict[bytes, bytes] = {}
        self._name, self._prior = name, prior
        self.keys = self._made()
        self.words = Words()

    def _made(self) -> Keyring:
        bank = bank_of(RiverLearner(ZOO[self._name].build()), compiles=True, prior=self._prior)
        assert not isinstance(bank, RiverBank)
        keys = Keyring(bank, fetch=lambda keys, _: [*map(self.rows.get, keys)], scan=lambda: iter(()), hot_max=2)
        keys.resume(TableVersion(1, 1, len(self.rows)))
        return keys

    def save(self) -> None:
        """Save the changed rows, and let the models go that were not used last."""
        self.keys.begin_save()
        changed, models = rows_to_save(self.keys)
        self.rows.update({key: row for key, row in changed.items() if row is not None})
        self.keys.saved(models, 1)

    def restart(self) -> None:
        """Begin anew from what was saved."""
        self.save()
        state, self.keys = self.keys.dump(), self._made()
        self.keys.load(state)

    def take(self, batch: Sequence[Keyed]) -> list[Said]:
        """Handle records as a batch, or, where the keyring asks for that, one by one."""
        ring, names = self.keys, [key for key, _, _ in batch]
        records: list[Record] = [(features, label) for _, features, label in batch]
        numbers = [np.nan if raw is None else ring.label_number(ring.label(raw)) for _, raw in records]
        answers = ring.learn_batch(self.words.columns(records), np.array(numbers, float), keys=names)
        if answers is None:
            return self.take_each(batch)
        return [
            ring.fault(int(answers.fault[at]), features) if answers.fault[at] else ring.answer(answers, at)
            for at, (features, _) in enumerate(records)
        ]

    def take_each(self, batch: Sequence[Keyed]) -> list[Said]:
        """Handle records one by one."""
        said: list[Said] = []
        for key, features, raw in batch:
            self.keys.meet(key, None, 0)
            try:
                answer: Said = self.keys.predict(dict(features), key)
                if raw is not None:
                    self.keys.learn(dict(features), self.keys.label(raw), key)
            except Exception as error:  # noqa: BLE001 it raises what River does
                self.keys.undo(key)
                answer = error
            said.append(answer)
        return said


def cut(records: Sequence[Keyed], *, seed: int) -> Iterator[Sequence[Keyed]]:
    draw, at = random.Random(seed), 0
    while at < len(records):
        size = draw.choice([1, 2, draw.randint(3, 60)])
        yield records[at : at + size]
        at += size


@pytest.mark.parametrize("prior", [False, True], ids=["alone", "born of all"])
@pytest.mark.parametrize("name", ZOO, ids=lambda name: name.replace(" ", "-"))
def test_each_key_is_answered_as_by_a_river_model_of_its_own(name: str, *, prior: bool) -> None:
    if not compilable(name):
        return
    records = keyed(name)
    rivers = Rivers(name, prior=prior)
    expected = [rivers.take(*record) for record in records]
    one, two = Ring(name, prior=prior), Ring(name, prior=prior)
    found, other = list[Said](), list[Said]()
    for at, batch in enumerate(cut(records, seed=1)):
        found += one.take_each(batch) if at % 7 == 3 else one.take(batch)
        if at % 3 == 2:
            one.save()
        if at % 8 == 7:
            one.restart()
            one.words = Words()
        one.keys.trim()
    for batch in cut(records, seed=2):
        other += two.take(batch)
    census = Census()
    census.count(found, expected)
    assert not census.differ[:3], f"{len(census.differ)} of {len(expected)} differ"
    assert census.same == census.numbers, f"{census.numbers - census.same} numbers differ, by {census.gap} at most"
    for ring in (one, two):
        ring.save()
    assert one.rows == two.rows
    assert one.keys.dump() == two.keys.dump()
