"""A worker's copy of the one model of all workers.

A round merges the records that this worker has learned since the last round into the mix, and loads the result. After a
crash, a lost partition or a refused round the worker drops its copy, loads the mix again, and relearns from the offsets
that the mix has reached.
"""

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from headrace.state.models.columns import Answers, Columns
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Answer, Capabilities, Model
from headrace.state.models.spec import difference
from headrace.state.models.task import ModelError
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.shared.mix_store import Contribution, LoadedMix, Mix, MixDamaged, MixOffset, MixStore

# A round is due when the examples that are not in the mix are this share of it, and at least the minimum.
_YOUNG_SHARE = 50
_YOUNG_MIN = 20


class Replica(Model):
    """A worker's copy of the mix in `pool`; `build` makes a new model, and `run_as` a faster form of it, if any.

    The mix itself is always a River model. Raises ModelError for a model that can't be mixed.
    """

    def __init__(
        self,
        pool: MixStore,
        build: Callable[[], RiverLearner],
        *,
        run_as: Callable[[RiverLearner], Model] = lambda built: built,
    ) -> None:
        from headrace.state.shared import merge  # noqa: PLC0415 it imports River, which takes seconds

        self._merge = merge
        self._pool = pool
        self._build = build
        self._run_as = run_as
        self._local: UndoableModel | None = None
        self._base: Any = None
        self._found = LoadedMix(0, b"", b"", None)
        # Labels are judged by a model that was never taught: which classes it has met depends on the rounds so far.
        self._judge = build()
        merge.check(self._judge.model)
        self._can_new = self.can = _shared(run_as(self._judge))
        self.task = self._judge.task
        self.codec = self._judge.codec
        self.spec = self._judge.spec
        self.learned = 0

    @property
    def version(self) -> int:
        """The number of the mix that was loaded last."""
        return self._found.number

    def label(self, raw: Any) -> Any:
        """Return the label in the model's own form. Raises LabelError."""
        return self._judge.label(raw)

    def predict(self, features: dict[str, Any], key: bytes = b"", *, label: Any = None) -> Answer:  # noqa: ARG002 one model for all keys
        """Predict for one record."""
        return self.local.predict(features, label=label)

    def learn(self, features: dict[str, Any], label: Any, key: bytes = b"") -> None:  # noqa: ARG002 one model for all keys
        """Learn one labelled record; `keep` counts it for the mix."""
        self.local.learn(features, label)

    @property
    def has_proba(self) -> bool:
        """Whether a predicted class comes with probabilities."""
        return self.local.has_proba

    @property
    def classes(self) -> Sequence[Any]:
        """The classes that a multiclass model has learned."""
        return self.local.classes

    def label_number(self, label: Any) -> float:
        """Return the number of a label for the next batch."""
        return self.local.label_number(label)

    def learn_batch(
        self, columns: Columns, labels: Any, *, silent: bool = False, halts: bool = False, **_keyed: Any
    ) -> Answers | None:
        """Predict and learn many records; those that were learned are counted for the mix."""
        answers = self.local.learn_batch(columns, labels, silent=silent, halts=halts)
        if answers is not None:
            self.learned += int(((answers.fault == 0) & (labels == labels)).sum())  # noqa: PLR0124 not NaN
        return answers

    def answer(self, answers: Answers, at: int) -> Answer:
        """Return one of the answers of a batch as `predict` returns it."""
        return self.local.answer(answers, at)

    def fault(self, code: int, features: dict[str, Any]) -> Exception:
        """Return the exception for a fault in the answers of a batch."""
        return self.local.fault(code, features)

    def to_river(self, key: bytes = b"") -> Any:  # noqa: ARG002 one model for all keys
        """Return a River model equal to this worker's."""
        return self.local.to_river()

    def keep(self, features: dict[str, Any], label: Any, key: bytes = b"", *, predicted: bool = True) -> None:  # noqa: ARG002 one model for all keys
        """Note a record without an error."""
        self.local.keep(features, label, predicted=predicted)
        self.learned += label is not None

    def undo(self, key: bytes = b"") -> None:  # noqa: ARG002 one model for all keys
        """Return to the state after the last record that was kept."""
        self.local.undo()

    def fetch(self, keys: Iterable[bytes]) -> None:  # noqa: ARG002 one model for all keys
        """Load the mix, if it is not there: `can` is that of the copy from then on."""
        _ = self.local

    def trim(self) -> None:
        """Bound the journal."""
        self.local.trim()

    def dump(self, key: bytes = b"") -> bytes:  # noqa: ARG002 the model is in the mix
        """Return nothing: the model is in the mix."""
        return b""

    def load(self, state: bytes, key: bytes = b"") -> None:
        """Do nothing: the model came from the mix."""

    @property
    def offsets(self) -> Mapping[int, int]:
        """The offset in each partition that the last loaded mix had reached."""
        return {partition: place.offset for partition, place in self._found.places.items()}

    @property
    def places(self) -> Mapping[int, MixOffset]:
        """The place in each partition that the last loaded mix had reached."""
        return self._found.places

    @property
    def examples(self) -> int:
        """The number of examples in the last loaded mix."""
        return 0 if self._found.mix is None else self._found.mix.examples

    @property
    def local(self) -> UndoableModel:
        """The model of this worker: the mix that it grew from, and what was learned here since."""
        if self._local is None:
            self._begin()
        assert self._local is not None
        return self._local

    @property
    def due_after(self) -> int:
        """The number of examples after which a round is due before its time."""
        return max(_YOUNG_MIN, (self.examples + self.learned) // _YOUNG_SHARE)

    def claim(self, partition: int, epoch: int) -> MixOffset | None:
        """Become the owner of a partition; return the mix's offset in it. Raises StoreAway, MixDamaged."""
        place = self._pool.claim(partition, epoch)
        # If the offset is not the known one, another worker has moved it, or it is wrong: the sealed mix decides.
        return place if place == self._found.places.get(partition) else self._pool.load().places.get(partition)

    def forget(self) -> None:
        """Drop this worker's copy, with the examples that are not in the mix."""
        self._local = None
        self.learned = 0

    def clear(self, number: int) -> None:
        """Delete the mix, unless its number is not this one any more. Raises StoreAway."""
        self._pool.clear(number)
        self.forget()
        self.can = self._can_new

    def is_behind(self, places: Mapping[int, MixOffset | None]) -> bool:
        """Tell whether there is a newer mix. Raises StoreAway.

        `places` has the offsets that this worker knows in its partitions. Raises MixDamaged for a mix that has lost
        them, that was put back to an earlier state, or that began again from nothing.
        """
        if self._local is None:
            return False
        number, life, digest, found = self._pool.newest(list(places))
        self._compare(number, life, digest)
        if found != list(places.values()):
            raise MixDamaged(f"mix {number} has lost what this worker had brought in", number=number)
        return number != self.version

    def mix(self, contributions: Mapping[int, Contribution], *, within_s: float) -> bool:
        """Make a round; tell whether this worker's examples are in the mix now. Raises StoreAway, StoreFenced.

        It gives up after `within_s` seconds, if other workers always submit first. Raises MixDamaged as `is_behind`.
        """
        mine = self.local.to_river()
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            found = self._pool.load()
            self._compare(found.number, found.life, found.digest)
            theirs, examples = self._model_of(found)
            if examples < self.examples:
                raise MixDamaged(f"mix {found.number} was put back and has gone on from there", number=found.number)
            try:
                mixed = self._merge.merge(
                    self._base, mine, theirs, n_mine=self.learned, n_theirs=examples - self.examples
                )
            except Exception:
                self._check(theirs, found.number)
                raise
            learner = self._learner_of(mixed)
            if not contributions:
                self._adopt(learner, found)
                return True
            mix = Mix(examples + self.learned, learner.spec, learner.codec, learner.dump())
            if (submitted := self._pool.submit(mix, base=found, contributions=contributions)) is not None:
                self._adopt(learner, submitted)
                return True
        return False

    def _compare(self, number: int, life: bytes, digest: bytes) -> None:
        """Raise MixDamaged for a mix that can't have grown from the one that this worker knows."""
        known = self._found
        if known.life and known.life != life:
            raise MixDamaged(f"mix {number} has begun anew", number=number)
        if number < known.number or (number == known.number and digest != known.digest):
            raise MixDamaged(f"mix {number} was put back to an earlier time", number=number)

    def _begin(self) -> None:
        found = self._pool.load()
        model, _ = self._model_of(found)
        if found.mix is not None:
            self._check(model, found.number)
        self._adopt(self._learner_of(model), found)

    def _adopt(self, learner: RiverLearner, found: LoadedMix) -> None:
        self._local = UndoableModel(self._run_as(learner))
        # A mix may hold numbers or classes that can't be compiled, and then River runs it.
        self.can = _shared(self._local)
        self._base = copy.deepcopy(learner.model)
        self._found = found
        self.learned = 0

    def _check(self, theirs: Any, number: int) -> None:
        """Check that the model of a mix can be mixed at all, since its parts may be wrong. Raises MixDamaged."""
        try:
            self._merge.merge(theirs, theirs, theirs, n_mine=1, n_theirs=1)
        except Exception as error:
            raise MixDamaged(
                f"mix {number}: its model can't be mixed: {type(error).__name__}: {error}", number=number
            ) from error

    def _model_of(self, found: LoadedMix) -> tuple[Any, int]:
        learner, mix = self._build(), found.mix
        if mix is None:
            return learner.model, 0
        if (mix.spec, mix.codec) != (learner.spec, learner.codec):
            other = f"the mix in the store was written by {mix.codec}; here is {learner.codec}"
            if mix.spec != learner.spec:
                how = difference(mix.spec, learner.spec)
                other = f"model.py builds another model than the mix in the store has: {how}"
            raise ModelError(
                other,
                hint="undo the change, or start under another `name`",
            )
        try:
            learner.load(mix.model)
        except ModelError as error:
            raise MixDamaged(f"mix {found.number}: {error}", number=found.number) from error
        return learner.model, mix.examples

    def _learner_of(self, model: Any) -> RiverLearner:
        """Return a learner as it would be after a restart: sets laid out anew, and nothing shared."""
        learner = self._build()
        learner.adopt(model)
        return learner


def _shared(model: Model) -> Capabilities:
    return msgspec.structs.replace(model.can, shared=True, undo=True)
