"""The engine: what happens to a record, with no Kafka, no Redis and no clock in it.

decode → predict → encode → learn, one record after the other, each either good or refused with its reason. With a
labels topic, records of both come in one order, and `join` brings a label to its features.
`run` and the tests host this same engine, so a bug that is reproduced here is the bug.

Relearning after a restart runs the very same steps and throws the outputs away: verdicts, model and counts
come out as they did the first time, because nothing here depends on when it happens.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.consumers.chunk import Chunk, Records, keys_of
from headrace.consumers.label import LabelDecoder
from headrace.consumers.record import Decoder, Event, LabelRecord, Record
from headrace.consumers.refusal import NO_KEY, Refusal
from headrace.pipeline.engine.dead_letter import DeadLetter, fitted
from headrace.pipeline.engine.join import LabelsStep
from headrace.producers import prediction, replay_proof
from headrace.producers.output import OutputRecords
from headrace.producers.record_size import SizeLimits
from headrace.state.event_time import StrayTime
from headrace.state.models.learner import LabelError
from headrace.state.shard import Shard

if TYPE_CHECKING:
    # It brings numba along, which takes its time, and which not every machine has.
    from headrace.pipeline.engine.columnar import ColumnarEngine, Crossing


# To lay columns out takes as long as to handle so many by themselves.
_FEW = 2


class Result(msgspec.Struct):
    """What a batch gave for one partition.

    `sources` are the records behind the predictions, in order, or else their `places` in the `chunk` that has them.
    `label_letters` are the dead letters of the labels topic, of which `labels` were good; `delays_ms` tells after how
    long each was joined. `codes` counts both kinds of dead letters by code. `learned` says how many were taught;
    `taught` tells of each prediction whether the model has, or awaits, its label. `posted` says that the HTTP sink has
    had its say; all of it fits `limits`.
    """

    predictions: OutputRecords = msgspec.field(default_factory=OutputRecords)
    sources: list[Record] = []
    chunk: Chunk | None = None
    places: Sequence[int] = ()
    dead_letters: list[DeadLetter] = []
    label_letters: list[DeadLetter] = []
    codes: dict[str, int] = {}
    labels: int = 0
    delays_ms: list[int] = []
    learned: int = 0
    taught: Any = msgspec.field(default_factory=list)
    posted: bool = False
    limits: SizeLimits = SizeLimits()

    @property
    def letters(self) -> list[DeadLetter]:
        """All dead letters, those of the labels last."""
        return self.dead_letters + self.label_letters

    def source(self, position: int) -> Record:
        """Return the record behind a prediction."""
        return self.sources[position] if self.chunk is None else self.chunk.record(self.places[position])

    def leave_out(self, positions: Container[int]) -> None:
        """Leave out some of the predictions, and with them what is known of their records."""
        self.predictions = self.predictions.without(positions)
        self.sources = _without(self.sources, positions)
        self.places = _without(self.places, positions)
        self.taught = _without(self.taught, positions)

    def count(self, code: str) -> None:
        """Count a dead letter by its code."""
        self.codes[code] = self.codes.get(code, 0) + 1


class Engine:
    """Move shards forward over records of `topic`, and of the topic `labels`, on behalf of the pipeline `name`.

    What it gives fits `limits`, which may be replaced: they decide what goes out, and never what is learned.
    """

    def __init__(
        self,
        *,
        decoder: Decoder,
        topic: str,
        name: str,
        labels: str = "",
        label_decoder: LabelDecoder | None = None,
        lane: "ColumnarEngine | None" = None,
        limits: SizeLimits | None = None,
    ) -> None:
        self._decoder = decoder
        self._topic = topic
        self._labels = labels
        self._name = name
        self._lane = lane
        self.limits = limits or SizeLimits()
        self._join = LabelsStep(decoder=decoder, label_decoder=label_decoder or LabelDecoder())

    def run(self, shard: Shard, records: Records, *, now_ms: int, silent: bool = False) -> Result:
        """Predict and learn a batch in the order given; the shard stands behind its last records afterwards.

        Where `silent`, nobody looks at what would go out, so it may be missing.
        """
        if isinstance(records, Chunk):
            lane = self._lane
            if lane is not None and len(records) > _FEW and shard.labels is None and shard.model.can.batches:
                crossing = lane.cross(shard, records, now_ms=now_ms, silent=silent)
                if crossing is not None:
                    return self._arrive(shard, records, crossing, silent=silent)
            records = records.records()
        return self._run_each(shard, records, now_ms=now_ms, silent=silent)

    def _arrive(self, shard: Shard, chunk: Chunk, crossing: "Crossing", *, silent: bool) -> Result:
        """Count what a chunk gave that was handled at once, and seal what was refused."""
        counts = shard.counts
        good = len(crossing.places)
        counts.records += len(chunk)
        counts.predictions += good
        counts.dead_letters += len(crossing.refusals)
        counts.learned += crossing.learned
        shard.advance(chunk.offsets[-1] + 1)
        result = Result(
            predictions=crossing.predictions,
            chunk=chunk,
            places=crossing.places,
            learned=crossing.learned,
            taught=crossing.taught,
        )
        for position in sorted(crossing.refusals):
            self._refuse(shard, chunk.record(position), crossing.refusals[position], result)
        shard.model.trim()
        if not silent:
            self.fit(shard, result)
        return result

    def _run_each(self, shard: Shard, records: Sequence[Record], *, now_ms: int, silent: bool) -> Result:
        """Take one record after the other."""
        result = Result()
        model = prediction.ModelVersion(self._name, shard.model_version)
        counts = shard.counts
        before = counts.learned
        # The models of all keys come from the store at once, not with each record by itself.
        shard.model.fetch(key for key in keys_of(records) if key is not None)
        for record in records:
            if type(record) is LabelRecord:
                self._one_label(shard, record, result)
                continue
            refusal = self._one(shard, record, result, model, now_ms)
            counts.records += 1
            if refusal is None:
                counts.predictions += 1
            else:
                counts.dead_letters += 1
                self._refuse(shard, record, refusal, result)
            shard.advance(record.offset + 1)
        result.learned = counts.learned - before
        shard.model.trim()
        if not silent:
            self.fit(shard, result)
        return result

    def withdraw(self, shard: Shard, result: Result, refused: Mapping[int, str]) -> None:
        """Make dead letters of predictions that the HTTP sink refused, given by position with its words."""
        self._withdraw(shard, result, {at: Refusal("sink_refused", "sink", words) for at, words in refused.items()})

    def fit(self, shard: Shard, result: Result) -> bool:
        """Make what goes out fit the limits of its topics; tell whether anything had to change.

        A prediction that is too large becomes a dead letter, and a dead letter loses what there is no room for. The
        model stays as it is: a limit may be another one when the same records are relearned.
        """
        limits = self.limits
        if result.limits == limits:
            return False
        result.limits = limits
        large = result.predictions.larger_than(limits.predictions)
        words = f"their topic takes {limits.predictions} (max.message.bytes)"
        self._withdraw(
            shard,
            result,
            {
                at: Refusal("too_large", "sink", f"its prediction, with key and headers, has {size} bytes; {words}")
                for at, size in large.items()
            },
        )
        before = result.letters
        result.dead_letters = [fitted(letter, limits.dead_letters) for letter in result.dead_letters]
        result.label_letters = [fitted(letter, limits.dead_letters) for letter in result.label_letters]
        return bool(large) or any(new is not old for new, old in zip(result.letters, before, strict=True))

    def _withdraw(self, shard: Shard, result: Result, refusals: Mapping[int, Refusal]) -> None:
        """Make dead letters of predictions, given by position.

        Where the model has learned a record already, or will when its label comes, the dead letter says so.
        """
        if not refusals:
            return
        for position, refusal in refusals.items():
            learned = bool(result.taught[position])
            self._refuse(shard, result.source(position), refusal, result, learned=learned)
        result.dead_letters.sort(key=lambda letter: letter.record.offset)
        result.leave_out(refusals)
        shard.counts.predictions -= len(refusals)
        shard.counts.dead_letters += len(refusals)

    def _refuse(self, shard: Shard, record: Record, refusal: Refusal, result: Result, *, learned: bool = False) -> None:
        """Make a dead letter of a record, and count it."""
        of_labels = type(record) is LabelRecord
        topic = self._labels if of_labels else self._topic
        replay = replay_proof.read(record.headers, secret=shard.secret, topic=topic, record=record)
        letter = DeadLetter(record, refusal, topic, self._name, replay.count, learned or replay.learned)
        (result.label_letters if of_labels else result.dead_letters).append(fitted(letter, self.limits.dead_letters))
        result.count(refusal.code)

    def _one(
        self, shard: Shard, record: Record, result: Result, model: prediction.ModelVersion, now_ms: int
    ) -> Refusal | None:
        """Handle one record: append its prediction and learn, or return why it is refused."""
        event = self._decoder.decode(record)
        if type(event) is Refusal:
            return event
        assert isinstance(event, Event)
        replay = replay_proof.read(record.headers, secret=shard.secret, topic=self._topic, record=record)
        id_ = self._id(record, event)
        if shard.model.can.keys:
            if record.key is None:
                return NO_KEY
            ts = None if event.ts is msgspec.UNSET else event.ts
            ahead_ms = shard.model.meet(record.key, ts, record.timestamp_ms)
            # With a labels topic the join notes it.
            if ahead_ms and shard.labels is None:
                shard.strays.note(StrayTime(record.offset, ahead_ms))
        if shard.labels is not None:
            self._join.pass_time(shard, record, event.ts)
        try:
            label = own = self._label(shard, event, learned=replay.learned)
        except LabelError as error:
            return Refusal("bad_label", "validate", str(error), "label")
        if shard.labels is not None:
            label = self._join.truth(shard, shard.labels, id_, own)
        return self._answer(
            shard, record, event, result, model, id_=id_, label=label, learned=replay.learned, now_ms=now_ms
        )

    def _answer(
        self,
        shard: Shard,
        record: Record,
        event: Event,
        result: Result,
        model: prediction.ModelVersion,
        *,
        id_: str,
        label: Any,
        learned: bool,
        now_ms: int,
    ) -> Refusal | None:
        """Predict, encode, and learn the label if there is one; return why the record is refused where that fails."""
        # A function of the user's own may change the features in its hands; an undo learns them as they came.
        features, key = event.features.copy(), record.key or b""
        try:
            answer, proba = shard.model.predict(event.features, key)
            value = prediction.encode(
                id_=id_,
                prediction=answer,
                proba=proba,
                model=model,
                source=self._source(record),
                ts=now_ms,
            )
            # Less what is another in each run: a relearning must come to the same verdict.
            size = len(value) - len(f"{model.version}{now_ms}")
            if size <= prediction.BYTES_MAX and label is not None:
                shard.model.learn(event.features, label, key)
        except (Exception, SystemExit) as error:  # noqa: BLE001 a model may raise anything, and none of it may stop the stream
            shard.model.undo(key)
            return Refusal("learn_failed", "learn", f"the model raised {type(error).__name__}: {error}")
        if size > prediction.BYTES_MAX:
            shard.model.undo(key)
            return Refusal("too_large", "learn", f"its prediction would have {len(value)} bytes")
        shard.model.keep(features, label, key)
        if label is not None:
            shard.counts.learned += 1
            shard.score(answer, label, model.version)
        if shard.labels is not None:
            told = learned or event.label is not msgspec.UNSET
            self._join.note(shard, record, event, id_, answer=answer, told=told, label=label)
        result.predictions.add(record.key, value, prediction.trace(record.headers))
        result.sources.append(record)
        result.taught.append(label is not None or shard.labels is not None or event.label is not msgspec.UNSET)
        return None

    def _one_label(self, shard: Shard, record: Record, result: Result) -> None:
        refusal = self._join.take(shard, record, result.delays_ms)
        if refusal is None:
            result.labels += 1
        else:
            self._refuse(shard, record, refusal, result)
        shard.advance(-1, record.offset + 1)

    def _label(self, shard: Shard, event: Event, *, learned: bool) -> Any:
        if event.label is msgspec.UNSET:
            return None
        label = shard.model.label(event.label)
        # A replay of what only a sink refused: the model has learned it where it stood first.
        return None if learned else label

    def _source(self, record: Record) -> prediction.SourceRecord:
        return prediction.SourceRecord(self._topic, record.partition, record.offset)

    def _id(self, record: Record, event: Event) -> str:
        if event.id is msgspec.UNSET:
            return f"{self._topic}-{record.partition}-{record.offset}"
        return event.id


def _without(items: Iterable[Any], positions: Container[int]) -> list[Any]:
    return [item for position, item in enumerate(items) if position not in positions]
