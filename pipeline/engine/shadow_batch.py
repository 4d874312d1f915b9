"""A batch for shadows: in one call, where the shadow takes batches, and otherwise record after record."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from headrace.consumers.fastjson.scan import Scan
from headrace.consumers.record import Event, RecordDecoder
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.refusal import Refusal
from headrace.pipeline.engine import pairs, shadows
from headrace.pipeline.engine.key_column import KeyColumn
from headrace.pipeline.engine.label_column import LabelColumn, answers_of, decided, label_of, losses, score
from headrace.pipeline.engine.pairs import Given
from headrace.producers.prediction import PredictionForm
from headrace.state.history.challenge import Challenge
from headrace.state.models.columns import Answers
from headrace.state.models.model import Unlabelled
from headrace.state.shard import Shard
from headrace.state.shard_model import ShardModel
from headrace.state.store.store_errors import STORE_ERRORS


class ShadowBatch:
    """A batch that the answering model has handled, for the shadows of its shard (`shadows.py`).

    `undecoded` are the positions of records that no model sees, and `withheld` those of records that are not learned:
    replays of records that were learned where they stood first. `served` are the answers that were sent, to the good
    records, and `truths` the labels of those (float64, NaN for none).
    """

    def __init__(
        self,
        shard: Shard,
        batch: RecordBatch,
        scan: Scan,
        events: Mapping[int, Event],
        *,
        undecoded: Collection[int],
        withheld: Collection[int],
        served: Answers,
        truths: Any,
    ) -> None:
        self._shard, self._batch = shard, batch
        self._served, self._truths = served, truths
        self._scan, self._events = scan, events
        self._undecoded, self._withheld = undecoded, withheld

    def take(
        self, columns: Scan, columned: Any, good: Any, *, silent: bool, decoder: RecordDecoder, form: PredictionForm
    ) -> None:
        """Let each shadow predict and learn the `good` records; `columns` has those at the positions `columned`."""
        rows = np.searchsorted(columned, good)
        singly = [
            one for one in self._shard.shadows if not self._take_columns(one, columns, rows, good, form, silent=silent)
        ]
        if singly:
            self._take_singly(singly, set(good.tolist()), decoder, form)

    def _take_columns(
        self, one: ShardModel, columns: Scan, rows: Any, good: Any, form: PredictionForm, *, silent: bool
    ) -> bool:
        """Let a shadow take the records in one call; return False, with nothing changed, if it takes them singly."""
        model, refused = one.model, dict[int, Refusal]()
        labels = LabelColumn(model, len(self._batch), refused, field="")
        if not model.can.batches or not labels.read(self._scan, self._events):
            return False
        labels.withhold(self._withheld)
        keys = KeyColumn(self._batch, self._scan, self._events, self._undecoded) if model.can.keys else None
        if keys is not None:
            keys.refuse(refused)
        taken = ~np.isin(good, list(refused))
        met: Mapping[str, Any] = {} if keys is None else keys.met(good[taken])
        truths, taught = labels.values[good[taken]], labels.taught[good[taken]]
        challenge = self._shard.history.challenges.get(one.name)
        try:
            answers = answers_of(one, columns.only(rows[taken]), taught, silent=silent, **met)
        except STORE_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 a shadow stops nothing
            self._shard.fail(one.name, f"{type(error).__name__}: {error}")
            return True
        if answers is None:
            return False
        sound, answers = answers.fault == 0, decided(model, answers, form)
        one.faults += len(good) - int(sound.sum())
        score(one, answers.only(sound), truths[sound], self._shard.model_version)
        if challenge is not None:
            theirs = np.full(len(good), np.nan)
            found = losses(challenge.rules, model, answers, truths)
            found[~sound] = np.nan
            theirs[taken] = found
            self._pair(challenge, theirs, good)
        return True

    def _pair(self, challenge: Challenge, theirs: Any, good: Any) -> None:
        """Add the pairs of a challenger, whose losses on the good records are `theirs`, NaN for a missing one."""
        known = np.flatnonzero(~np.isnan(self._truths))
        if not len(known):
            return
        ours = losses(challenge.rules, self._shard.model, self._served, self._truths)[known]
        positions = good[known]
        times = self._times()[positions]
        pairs.add(self._shard, challenge, ours, theirs[known], times, sequences=positions)

    def _times(self) -> Any:
        """Return the event time of each record, as a pair has it."""
        batch, times = self._batch, self._scan.ts.copy()
        for position, event in self._events.items():
            times[position] = -1 if event.ts is msgspec.UNSET else event.ts
        logged = np.fromiter(batch.timestamps, np.int64, len(batch))
        return np.where((times < 0) | (times > logged + pairs.AHEAD_MS_MAX), logged, times)

    def _take_singly(
        self, singly: list[ShardModel], good: Collection[int], decoder: RecordDecoder, form: PredictionForm
    ) -> None:
        """Let shadows take one record after the other."""
        shard, batch = self._shard, self._batch
        answers: dict[str, list[Given]] = {one.name: [] for one in singly}
        keyed = [one for one in singly if one.model.can.keys]
        for one in keyed:
            one.model.fetch(key for key in batch.keys if key is not None)
        for position in range(len(batch)):
            if position in self._undecoded or not (keyed or position in good):
                continue
            record = batch.record(position)
            event = self._events.get(position) or decoder.decode(record)
            assert isinstance(event, Event)
            shadows.meet(shard, keyed, record, event.ts)
            if position in good:
                is_learned = position not in self._withheld
                label = event.label if is_learned and event.label is not msgspec.UNSET else None
                at_ms = record.timestamp_ms if event.ts is msgspec.UNSET else event.ts
                unlabelled = Unlabelled(at_ms) if is_learned else None
                for one in singly:
                    given = shadows.take_one(shard, one, event.features, label, unlabelled, key=record.key, form=form)
                    answers[one.name].append(given)
        self._pair_singly(answers, np.array(sorted(good)))

    def _pair_singly(self, answers: Mapping[str, Sequence[Given]], good: Any) -> None:
        """Add the pairs of shadows that answered one record after the other, each of the good ones."""
        shard, model = self._shard, self._shard.model
        for name, given in answers.items():
            if (challenge := shard.history.challenges.get(name)) is not None:
                labels = ((one, truth) for one, truth in zip(given, self._truths.tolist(), strict=True))
                theirs = [
                    np.nan if np.isnan(truth) else pairs.loss_of(challenge.rules, one, label_of(model, truth))
                    for one, truth in labels
                ]
                self._pair(challenge, np.array(theirs, dtype=np.float64), good)
