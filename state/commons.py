"""One model for all partitions of a worker, that is mixed with those of the other workers.

A round brings what was learned here since the last into the mix of all, and takes the mix. Whatever this worker learned
and has not brought in can be forgotten as a whole, by going back to the mix, and learned again from the places that the
mix has come to. That is how a crash, a lost partition and a refused round all end.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from state.cell import Cell
from state.learner import Answer, ModelError, RiverLearner
from state.pool import Contribution, Mix, Place, Pool, PoolDamaged

_TRIES = 20
# A round is due when so many examples are not in the mix that they could turn it: a share of it, and some at the least.
_YOUNG_SHARE = 20
_YOUNG_MIN = 20


class Commons:
    """A worker's copy of the mix in `pool`; `build` makes a new learner.

    Raises ModelError for one that can't be mixed.
    """

    def __init__(self, pool: Pool, build: Callable[[], RiverLearner]) -> None:
        from state import mixing  # noqa: PLC0415 it imports River, which takes seconds

        self._mixing = mixing
        self._pool = pool
        self._build = build
        mixing.check(build().model)
        self._cell: Cell | None = None
        self._base: Any = None
        self._base_examples = 0
        self._is_from_mix = False
        self.version = 0
        self.learned = 0

    @property
    def cell(self) -> Cell:
        """The model with its undo."""
        if self._cell is None:
            self._begin()
        assert self._cell is not None
        return self._cell

    @property
    def due_after(self) -> int:
        """How many examples may be learned here before a round should be made, however little time has passed."""
        return max(_YOUNG_MIN, (self._base_examples + self.learned) // _YOUNG_SHARE)

    def claim(self, partition: int, epoch: int) -> Place | None:
        """Become the owner of a partition; return how far the mix has come in it. Raises StoreAway."""
        return self._pool.claim(partition, epoch)

    def forget(self) -> None:
        """Forget what was learned here and is not in the mix."""
        self._cell = None
        self.learned = 0

    def clear(self) -> None:
        """Give the whole mix up. Raises StoreAway."""
        self._pool.clear(self._pool.version())
        self.forget()

    def is_behind(self) -> bool:
        """Tell whether there is a newer mix. Raises StoreAway."""
        return self._cell is not None and self._pool.version() != self.version

    def mix(self, contributions: Mapping[int, Contribution]) -> bool:
        """Make a round; tell whether what was learned here is in the mix now. Raises StoreAway, StoreFenced.

        PoolDamaged tells that the mix was lost, or put back to an earlier time: forget, and begin again.
        """
        mine = self.cell.learner
        assert isinstance(mine, RiverLearner)
        for _ in range(_TRIES):
            number, found = self._pool.load()
            if number < self.version or (found is None and self._is_from_mix):
                raise PoolDamaged(f"mix {number} is older than {self.version}, which there was before")
            theirs, examples = self._model_of(found)
            mixed = self._mixing.merge(
                self._base, mine.model, theirs, n_mine=self.learned, n_theirs=examples - self._base_examples
            )
            cell = Cell(self._learner_of(mixed))
            if not contributions:
                self._adopt(cell, number, examples, is_from_mix=found is not None)
                return True
            mix = Mix(examples + self.learned, cell.spec, cell.codec, cell.learner.dump())
            if number := self._pool.submit(mix, base=number, contributions=contributions):
                self._adopt(cell, number, mix.examples, is_from_mix=True)
                return True
        return False

    def _begin(self) -> None:
        number, found = self._pool.load()
        model, examples = self._model_of(found)
        self._adopt(Cell(self._learner_of(model)), number, examples, is_from_mix=found is not None)

    def _adopt(self, cell: Cell, number: int, examples: int, *, is_from_mix: bool) -> None:
        assert isinstance(cell.learner, RiverLearner)
        self._cell = cell
        self._base = copy.deepcopy(cell.learner.model)
        self._base_examples = examples
        self._is_from_mix = is_from_mix
        self.version = number
        self.learned = 0

    def _model_of(self, mix: Mix | None) -> tuple[Any, int]:
        learner = self._build()
        if mix is None:
            return learner.model, 0
        if mix.spec != learner.spec:
            raise ModelError(
                "model.py builds another model than the mix in the store",
                hint="undo the change, or start under another `name`",
            )
        learner.load(mix.model)
        return learner.model, mix.examples

    def _learner_of(self, model: Any) -> RiverLearner:
        """Return a learner as it would be after a restart: sets laid out anew, and nothing shared."""
        learner = self._build()
        learner.adopt(model)
        return learner


class Share:
    """One partition's part in the commons: its mind, as the shard sees it. What it learns is counted for the mix."""

    def __init__(self, commons: Commons) -> None:
        cell = commons.cell
        self.task = cell.task
        self.codec = cell.codec
        self.spec = cell.spec
        self._commons = commons

    @property
    def version(self) -> int:
        """The number of the mix that the model grew from."""
        return self._commons.version

    def label(self, raw: Any) -> Any:
        """Return the label as the model takes it. Raises LabelError."""
        return self._commons.cell.label(raw)

    def predict(self, key: bytes | None, features: dict[str, Any]) -> Answer:
        """Answer for features."""
        return self._commons.cell.predict(key, features)

    def learn(self, key: bytes | None, features: dict[str, Any], label: Any) -> None:
        """Learn one labelled record."""
        self._commons.cell.learn(key, features, label)

    def keep(self, key: bytes | None, features: dict[str, Any], label: Any, *, predicted: bool = True) -> None:
        """Note a record that went well."""
        self._commons.cell.keep(key, features, label, predicted=predicted)
        self._commons.learned += label is not None

    def undo(self, key: bytes | None) -> None:
        """Put the model back to where it stood after the last record that was kept."""
        self._commons.cell.undo(key)

    def trim(self) -> None:
        """Bound the journal."""
        self._commons.cell.trim()

    def checkpoint(self) -> bytes:
        """Return nothing: the model is in the mix."""
        return b""

    def restore(self, model: bytes) -> None:
        """Do nothing: the model came from the mix."""
