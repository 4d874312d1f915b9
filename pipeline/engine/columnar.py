"""The fast lane: a whole chunk of records at once, where the learner is compiled and nothing else is to be asked.

Values become columns, columns become answers, answers become the bytes that go out, each in one call; a record is
looked at by itself only where it is refused, or where the scanner leaves it to the decoder. What comes out is what the
engine makes of one record after the other, to the bit.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from headrace.consumers.chunk import Chunk, keys_of
from headrace.consumers.fastjson import scan as scanning
from headrace.consumers.fastjson.scan import Scan, Scanner
from headrace.consumers.record import Decoder, Event, RecordHeaders
from headrace.consumers.refusal import NO_KEY, Refusal
from headrace.producers import prediction, replay_proof
from headrace.producers.fastjson import encoder
from headrace.producers.fastjson.encoder import Encoder, Ids
from headrace.producers.output import OutputRecords
from headrace.state.compiled import compiled_learner
from headrace.state.event_time import StrayTime, StrayTimes
from headrace.state.models.columns import BOOLEAN, STRING, Answers, Columns
from headrace.state.models.learner import LabelError
from headrace.state.models.model import Model
from headrace.state.shard import Shard

# What a prediction has besides its id and its classes, and what a probability takes, in bytes, at most.
_REST_BYTES_MAX = 4_096
_NUMBER_BYTES_MAX = 32
_NO_LABEL = _NO_TIME = -1


class Crossing(msgspec.Struct):
    """What came of a chunk: the `places` of its good records, their predictions, and why the others are refused.

    `taught` says of each good record whether it had a label; `learned` counts those that were learned.
    """

    places: Any
    predictions: OutputRecords
    refusals: Mapping[int, Refusal]
    learned: int
    taught: Any


class ColumnarEngine:
    """Move shards forward over chunks of `topic`, read as `decoder` does, on behalf of the pipeline `name`."""

    def __init__(self, *, decoder: Decoder, topic: str, name: str) -> None:
        self._decoder = decoder
        self._topic = topic
        self._scanner = Scanner(value_bytes_max=decoder.value_bytes_max, schema=decoder.schema)
        self._encoder = Encoder(topic=topic, name=name)

    def cross(self, shard: Shard, chunk: Chunk, *, now_ms: int, silent: bool) -> Crossing | None:
        """Predict and learn a chunk, or return None, with nothing changed, for one that wants to be taken in pieces."""
        model = shard.model
        found = chunk.values()
        scan = self._scanner.scan(found)
        headers = chunk.headers()
        refusals: dict[int, Refusal] = {}
        events = self._read(found, scan, refusals)
        ids = _ids(scan, events)
        keys = _Keys(chunk, scan, events, refusals) if model.can.keys else None
        labels = _Labels(model, len(chunk), refusals)
        if not labels.read(scan, events, self._scanner.vocabulary.words) or _is_long(ids, model):
            return None
        labels.withhold(self._learned_before(shard, chunk, headers))
        if keys is not None:
            keys.refuse(refusals)
        scan = self._scanner.fill(scan, {position: event.features for position, event in events.items()})
        good = _others(len(chunk), refusals)
        columns, truths = self._columns(scan, good), labels.values[good]
        met: Mapping[str, Any] = {} if keys is None else keys.met(good)
        answers = model.learn_batch(columns, truths, silent=silent, **met)
        if answers is None:
            return None
        if keys is not None:
            keys.note(model.ahead, shard.strays)
        if answers.fault.any():
            good, answers = self._refuse_faults(found, model, good, answers, refusals)
        truths = labels.values[good]
        predictions = OutputRecords()
        if not silent:
            offsets = _array(chunk.offsets)[good]
            places = {"partition": shard.partition, "offsets": offsets, "version": shard.model_version, "ts": now_ms}
            values = self._encode(model, answers, Ids(ids.text, ids.at[good], ids.size[good]), places)
            predictions = _parcel(chunk, good, values, headers)
        _score(shard, answers, truths)
        learned = int(np.count_nonzero(~np.isnan(truths)))
        return Crossing(good, predictions, refusals, learned, labels.told[good])

    def _learned_before(
        self, shard: Shard, chunk: Chunk, headers: Sequence[RecordHeaders | None] | None
    ) -> Iterator[int]:
        """Yield the places of records that a replay has sent, and that the model learned where they stood first."""
        for place, claim in enumerate(headers or ()):
            if claim and replay_proof.is_claimed(claim):
                replay = replay_proof.read(claim, secret=shard.secret, topic=self._topic, record=chunk.record(place))
                if replay.learned:
                    yield place

    def _read(self, values: Sequence[bytes | None], scan: Scan, refusals: dict[int, Refusal]) -> dict[int, Event]:
        """Decode, one by one, what the scanner was not sure of."""
        events: dict[int, Event] = {}
        for position in np.flatnonzero(scan.slow).tolist():
            event = self._decoder.read(values[position])
            if isinstance(event, Refusal):
                refusals[position] = event
            else:
                events[position] = event
        return events

    def _columns(self, scan: Scan, good: Any) -> Columns:
        """Return the columns of the good records."""
        starts, names, kinds, values = scan.starts, scan.names, scan.kinds, scan.values
        if len(good) < len(starts) - 1:
            sizes = np.diff(starts)
            kept = np.zeros(len(sizes), dtype=bool)
            kept[good] = True
            entries = np.repeat(kept, sizes)
            names, kinds, values = names[entries], kinds[entries], values[entries]
            starts = np.concatenate(([0], np.cumsum(sizes[good])))
        return Columns(starts, names, kinds, values, self._scanner.vocabulary)

    def _refuse_faults(
        self,
        values: Sequence[bytes | None],
        model: Model,
        good: Any,
        answers: Answers,
        refusals: dict[int, Refusal],
    ) -> tuple[Any, Answers]:
        """Refuse the records on which River would have raised; return the others and their answers."""
        fault = answers.fault
        for position, code in zip(good[fault != 0].tolist(), fault[fault != 0].tolist(), strict=True):
            error = model.fault(code, self._decoder.features(values[position] or b""))
            words = f"the model raised {type(error).__name__}: {error}"
            refusals[position] = Refusal("learn_failed", "learn", words)
        sound = fault == 0
        return good[sound], Answers(*(None if column is None else column[sound] for column in answers))

    def _encode(self, model: Model, answers: Answers, ids: Ids, places: Mapping[str, Any]) -> list[bytes]:
        if model.task == "regression":
            return self._encoder.number(ids, values=answers.value, **places)
        if model.task == "binary":
            proba = answers.value if model.has_proba else None
            return self._encoder.binary(ids, chosen=answers.chosen, proba=proba, **places)
        proba = answers.proba if model.has_proba else None
        return self._encoder.classes(
            ids, chosen=answers.value, proba=proba, known=answers.known, names=model.classes, **places
        )


class _Labels:
    """The labels of a chunk as the model takes them (`values`, NaN for none), and which records were `told` one."""

    def __init__(self, model: Model, count: int, refusals: dict[int, Refusal]) -> None:
        self.values = np.full(count, np.nan)
        self.told = np.zeros(count, dtype=bool)
        self._model = model
        self._refusals = refusals

    def read(self, scan: Scan, events: Mapping[int, Event], words: Sequence[str]) -> bool:
        """Take the labels, and refuse the records of those that are none; False where their order matters."""
        kinds, found = scan.label_kinds, scan.label_values
        self.told = kinds != _NO_LABEL
        odd = self.told
        if self._model.task == "binary":
            odd = odd & ((kinds == STRING) | ((found != 0.0) & (found != 1.0)))
        elif self._model.task == "regression":
            odd = odd & ((kinds == STRING) | (kinds == BOOLEAN))
        plain = self.told & ~odd
        self.values[plain] = found[plain]
        odd_ones = {
            position: _raw(kinds[position], found[position], words) for position in np.flatnonzero(odd).tolist()
        }
        odd_ones.update({i: event.label for i, event in events.items() if event.label is not msgspec.UNSET})
        if self._model.task == "multiclass" and len({isinstance(raw, str) for raw in odd_ones.values()}) > 1:
            # Whether a class is of the right kind hangs on which was learned first.
            return False
        for position in sorted(odd_ones):
            self._take(position, odd_ones[position])
        return True

    def withhold(self, positions: Iterable[int]) -> None:
        """Learn nothing of what was learned where it stood first: a replay of what only a sink refused."""
        for position in positions:
            self.values[position] = np.nan

    def _take(self, position: int, raw: Any) -> None:
        self.told[position] = True
        try:
            label = self._model.label(raw)
        except LabelError as error:
            self._refusals[position] = Refusal("bad_label", "validate", str(error), "label")
            return
        self.values[position] = self._model.label_number(label)


class _Keys:
    """The keys of a chunk, each with a model of its own; a record without one is to be refused."""

    def __init__(self, chunk: Chunk, scan: Scan, events: Mapping[int, Event], refusals: Mapping[int, Refusal]) -> None:
        self._offsets = chunk.offsets
        found = keys_of(chunk)
        self._keys = [key or b"" for key in found]
        told = scan.ts.copy()
        for position, event in events.items():
            told[position] = _NO_TIME if event.ts is msgspec.UNSET else event.ts
        logged = np.array(chunk.timestamps(), dtype=np.int64)
        self._keyless = []
        self._met = self._keys
        self._places: Sequence[int] = range(len(chunk))
        self._times = told, logged
        if refusals or None in found:
            # An empty key is a key.
            self._keyless = [place for place, key in enumerate(found) if key is None and place not in refusals]
            # A record whose label is refused has been seen as well.
            met = [place for place, key in enumerate(found) if key is not None and place not in refusals]
            self._met, self._places = [self._keys[place] for place in met], met
            self._times = told[met], logged[met]

    def refuse(self, refusals: dict[int, Refusal]) -> None:
        """Refuse the records that have no key, whatever else they lack."""
        refusals.update(dict.fromkeys(self._keyless, NO_KEY))

    def met(self, good: Any) -> Mapping[str, Any]:
        """Return what `learn_batch` is told of keys, where the good records are answered."""
        answered = None if len(good) == len(self._met) else np.searchsorted(self._places, good)
        return {"keys": self._met, "answered": answered, "times": self._times}

    def note(self, ahead: Iterable[tuple[int, int]], strays: StrayTimes) -> None:
        """Note the records whose event time was not believed."""
        for place, ahead_ms in ahead:
            strays.note(StrayTime(self._offsets[self._places[place]], ahead_ms))


def _raw(kind: int, value: float, words: Sequence[str]) -> Any:
    """Return a label as the decoder would have given it, as far as a learner can tell."""
    if kind == STRING:
        return words[int(value)]
    if kind == BOOLEAN:
        return bool(value)
    return int(value) if float(value).is_integer() else float(value)


def _array(offsets: Sequence[int]) -> Any:
    # numpy goes through a range one number after the other.
    return np.arange(offsets.start, offsets.stop) if isinstance(offsets, range) else np.array(offsets, dtype=np.int64)


def _ids(scan: Scan, events: Mapping[int, Event]) -> Ids:
    """Return where the ids stand; those that the decoder read are put behind the text."""
    if not events:
        return Ids(scan.text, scan.id_at, scan.id_size)
    at, size, more = scan.id_at.copy(), scan.id_size.copy(), [scan.text]
    end = len(scan.text)
    for position, event in events.items():
        if event.id is msgspec.UNSET:
            at[position], size[position] = -1, 0
            continue
        quoted = np.frombuffer(msgspec.json.encode(event.id)[1:-1], dtype=np.uint8)
        at[position], size[position] = end, len(quoted)
        end += len(quoted)
        more.append(quoted)
    return Ids(np.concatenate(more), at, size)


def _is_long(ids: Ids, model: Model) -> bool:
    """Tell whether some prediction may be larger than it may be: then each is measured before it is learned."""
    classes = sum(len(str(label)) + _NUMBER_BYTES_MAX for label in model.classes)
    longest = int(ids.size.max(initial=0))
    return longest + 2 * classes + _REST_BYTES_MAX > prediction.BYTES_MAX


def _others(count: int, refusals: Mapping[int, Refusal]) -> Any:
    """Return the places of a chunk that are not refused."""
    if not refusals:
        return np.arange(count)
    good = np.ones(count, dtype=bool)
    good[list(refusals)] = False
    return np.flatnonzero(good)


def _parcel(
    chunk: Chunk, good: Any, values: list[bytes], headers: Sequence[RecordHeaders | None] | None
) -> OutputRecords:
    keys = chunk.keys()
    places: Sequence[int] = range(len(chunk))
    if len(good) < len(chunk):
        places = good.tolist()
        keys = [keys[place] for place in places]
    parcel = OutputRecords(keys, values)
    if headers is not None:
        for position, place in enumerate(places):
            if (passed := prediction.trace(headers[place])) is not None:
                parcel.headers[position] = passed
    return parcel


def _score(shard: Shard, answers: Answers, truths: Any) -> None:
    """Score the answers whose truth is known."""
    known = ~np.isnan(truths)
    truths = truths[known]
    if shard.model.task == "regression":
        # As Python's own numbers, these grow to infinity and say nothing of it.
        with np.errstate(over="ignore", invalid="ignore"):
            errors = np.abs(answers.value[known] - truths)
            shard.score_all(errors[errors < np.inf])
    elif shard.model.task == "binary":
        shard.score_all((answers.chosen[known] == truths).astype(np.float64))
    else:
        chosen = answers.value[known]
        shard.score_all((chosen == truths)[chosen >= 0].astype(np.float64))


def warm(*, machine: bool = True) -> None:
    """Compile all that a lane runs, or load what another process has compiled; the machine is not for models by key."""
    for part in (scanning, compiled_learner, encoder) if machine else (scanning, encoder):
        part.warm()
