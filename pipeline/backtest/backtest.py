"""`headrace backtest`: how good models would have been on the records of a file or of a topic. It changes nothing."""

import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from headrace.consumers.record import Event, Label, LabelRecordDecoder, Record, RecordDecoder
from headrace.pipeline import assembly, model_factory
from headrace.pipeline.backtest import chart
from headrace.pipeline.backtest.delayed_validation import DelayedValidation
from headrace.pipeline.backtest.engine_validation import EngineValidation
from headrace.pipeline.backtest.examples import Delay, DelayRefused, LabelOf
from headrace.pipeline.backtest.past_records import PastTopic, Range, by_time, of_file
from headrace.pipeline.config.config import Config, ConfigError
from headrace.pipeline.console import as_json, data
from headrace.pipeline.engine.engine import Engine
from headrace.pipeline.files.input_file import open_file
from headrace.pipeline.files.record_form import TableColumns
from headrace.pipeline.files.subject import SubjectMissing, is_file
from headrace.pipeline.hinted_error import HintedError
from headrace.state.models.learner import RiverLearner
from headrace.state.models.model import Model
from headrace.state.models.undoable_model import UndoableModel
from headrace.state.running_metrics import RunningMetrics, metrics_of

_BATCH = 2_000


class NothingScored(HintedError):
    """Raised when no prediction could be compared with a label."""


class Options(msgspec.Struct, frozen=True):
    """What is backtested: the `factories` (default: the configured one), the delay, and the range of the records.

    With `points` the metrics are also noted on the way.
    """

    factories: tuple[str, ...] = ()
    delay: Delay = Delay()
    range: Range = Range()
    points: bool = False


Factories = Mapping[str, Callable[[], Any] | None]
"""The functions that build the models to test, by name; None for one that is looked up by its name."""


class Candidate:
    """One factory, and the metrics of the answers of its models."""

    def __init__(self, config: Config, options: Options, factory: str, make: Callable[[], Any] | None = None) -> None:
        self.factory = factory
        self.config = config.model_copy(update={"model": config.model.model_copy(update={"factory": factory})})
        self._build = model_factory.builder(self.config, make)
        self.first = self._build()
        self.metrics = RunningMetrics(
            self.first.task, metrics_of(self.first.task, config.quality.measures), has_points=options.points
        )

    def model(self) -> Model:
        """Return a new model, or the models of a partition's keys."""
        if self.config.model.scope == "key":
            return model_factory.keyring(
                self.config, self._build, (lambda keys, _: [None] * len(keys), lambda: iter(()))
            )
        return UndoableModel(model_factory.fastest(self.config, self._build()))

    def result(self, found: EngineValidation | DelayedValidation) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "factory": self.factory,
            "records": found.read,
            "scored": self.metrics.scored,
            "refused": dict(sorted(found.refused.items())),
            "skipped": found.skipped,
            **self.metrics.values(),
        }


def backtest(
    config: Config,
    *,
    subject: str | None,
    options: Options,
    csv: bool = False,
    columns: TableColumns | None = None,
    json: bool = False,
    plot: Path | None = None,
) -> int:
    """Test models on the records of a file, or of a topic if there is no such file, and print their metrics.

    Without a subject it is the features topic. Raises SubjectMissing, FileRefused, ModelError, ConfigError,
    DelayRefused, NothingScored, ChartRefused, PlotMissing, and errors of Reader and of the registry.
    """
    if plot is not None:
        chart.check(plot)
        options = msgspec.structs.replace(options, points=True)
    factories = options.factories or (config.model.factory,)
    if len(set(factories)) < len(factories):
        raise ConfigError(
            f"--factory {next(name for name in factories if factories.count(name) > 1)} is given twice",
            hint="name each factory once",
        )
    subject = config.topics.features if subject is None else subject
    found, results = run(
        config, dict.fromkeys(factories), subject=subject, options=options, csv=csv, columns=columns, notes=True
    )
    if plot is not None:
        curves = {one.factory: one.metrics.points for one in found.candidates}
        chart.draw(plot, curves, title=f"{subject}, {found.order}")
    if json:
        data.write(as_json({"results": results}) + "\n")
    else:
        data.write("".join(f"{line}\n" for line in _table(results, f"{subject}: {found.order}")))
    return 0


def run(
    config: Config,
    factories: Factories,
    *,
    subject: str,
    options: Options,
    csv: bool = False,
    columns: TableColumns | None = None,
    notes: bool = False,
) -> tuple["BacktestRun", list[dict[str, Any]]]:
    """Test models on a file or a topic; return the run and the figures of each. Raises as `backtest` does.

    With `notes` the notes on how the file was read are written to stderr.
    """
    with ExitStack() as closing:
        if is_file(subject):
            file = closing.enter_context(open_file(config, Path(subject), csv=csv, columns=columns or TableColumns()))
            for note in file.notes if notes else ():
                sys.stderr.write(f"{note}\n")
            found = BacktestRun(config, factories, options, decoder=assembly.json_decoder(config), is_logged=False)
            results = found.with_delay({0: of_file(file)})
        else:
            topic = PastTopic(config, subject, closing)
            found = BacktestRun(config, factories, options, decoder=assembly.decoder(config), is_logged=True)
            results = _of_topic(found, config, topic, closing)
    _refuse_unscored(results, subject)
    return found, results


def _of_topic(found: "BacktestRun", config: Config, topic: PastTopic, closing: ExitStack) -> list[dict[str, Any]]:
    """Run on a topic, with the labels of the labels topic if the topic is the features topic."""
    features = {number: topic.partition(number) for number in topic.partitions}
    if config.topics.labels is None or topic.topic != config.topics.features:
        return found.with_delay(features)
    labels = PastTopic(config, config.topics.labels, closing)
    if found.options.delay.is_none:
        return found.as_they_were(features, {number: labels.labels(number) for number in features})
    known = _labels_by_id(assembly.label_decoder(config), [labels.labels(number) for number in labels.partitions])

    def label_of(event: Event, record: Record) -> Any:
        is_named = event.id is not msgspec.UNSET
        return known.get(str(event.id) if is_named else f"{topic.topic}-{record.partition}-{record.offset}")

    return found.with_delay(features, label_of=label_of)


def _labels_by_id(decoder: LabelRecordDecoder, logs: Iterable[Iterator[Record]]) -> dict[str, Any]:
    """Return the first label of each id."""
    known: dict[str, Any] = {}
    for log in logs:
        for record in log:
            found = decoder.decode(record)
            if isinstance(found, Label):
                known.setdefault(found.id, found.label)
    return known


class BacktestRun:
    """A backtest of some factories on records that `decoder` reads. `order` says in words when labels come.

    `is_logged` tells whether the records have a time of the log.
    """

    def __init__(
        self, config: Config, factories: Factories, options: Options, *, decoder: RecordDecoder, is_logged: bool
    ) -> None:
        self.options = options
        self.order = str(options.delay)
        self.candidates: list[Candidate] = []
        self._config = config
        self._factories = factories
        self._decoder, self._is_logged = decoder, is_logged

    def with_delay(
        self, logs: Mapping[int, Iterator[Record]], *, label_of: LabelOf | None = None
    ) -> list[dict[str, Any]]:
        """Test on the records of some partitions, whose labels come after the given delay."""
        # The delay decides when a label comes. So the models are built as for a pipeline without a labels topic.
        config = self._config.model_copy(update={"topics": self._config.topics.model_copy(update={"labels": None})})
        self.candidates = [Candidate(config, self.options, *one) for one in self._factories.items()]
        delay = self.options.delay
        for one in self.candidates:
            _refuse_delay(one.first, one.factory, delay)
        columnar, form = _columnar(config, self._decoder), config.predictions.form
        if delay.is_none:
            engine = Engine(decoder=self._decoder, topic="", name=config.name, columnar=columnar, form=form)
            return self._test([EngineValidation(engine, one.model, one.metrics) for one in self.candidates], logs)
        validations = [
            DelayedValidation(
                one.model, one.metrics, decoder=self._decoder, form=form, columnar=columnar, delay=delay,
                is_logged=self._is_logged, label_of=label_of,
            )
            for one in self.candidates
        ]  # fmt: skip
        return self._test(validations, logs)

    def as_they_were(
        self, features: Mapping[int, Iterator[Record]], labels: Mapping[int, Iterator[Record]]
    ) -> list[dict[str, Any]]:
        """Test on the records of some partitions, whose labels come when they came to the labels topic."""
        self.order = "labels when they came"
        self.candidates = [Candidate(self._config, self.options, *one) for one in self._factories.items()]
        engine = assembly.engine(self._config, batches=_runs_compiled(self._config))
        validations = []
        for one in self.candidates:
            rules = assembly.rules(one.config, default=model_factory.default_label(one.config, one.first))
            validations.append(EngineValidation(engine, one.model, one.metrics, rules=rules))
        return self._test(validations, features, labels)

    def _test(
        self,
        validations: "Sequence[EngineValidation | DelayedValidation]",
        features: Mapping[int, Iterator[Record]],
        labels: Mapping[int, Iterator[Record]] | None = None,
    ) -> list[dict[str, Any]]:
        """Give all records to the validations, and return the results of the candidates."""
        # Of equal times the labels come first.
        logs = list((labels or {}).values())
        logs += [self.options.range.of(log, self._time_of) for log in features.values()]
        # As the pipeline orders the two logs: by the times of the log.
        ordered = by_time(logs, lambda record: record.timestamp_ms)
        # The order of the records of different partitions matters only to a model that they share.
        is_one = self._config.model.scope == "global"
        while batch := list(islice(ordered, _BATCH)):
            groups: dict[int, list[Record]] = {}
            for record in batch:
                groups.setdefault(0 if is_one else record.partition, []).append(record)
            for validation in validations:
                for number, some in groups.items():
                    validation.take(number, some)
        for validation in validations:
            validation.end()
        return [one.result(found) for one, found in zip(self.candidates, validations, strict=True)]

    def _time_of(self, record: Record) -> int:
        found = self._decoder.decode(record)
        ts = found.ts if isinstance(found, Event) else msgspec.UNSET
        return record.timestamp_ms if ts is msgspec.UNSET else ts


def _runs_compiled(config: Config) -> bool:
    return model_factory.may_compile(config) and model_factory.has_numba()


def _columnar(config: Config, decoder: RecordDecoder) -> Any:
    """Return the engine of batches; None where models do not run compiled."""
    if not _runs_compiled(config):
        return None
    columnar = importlib.import_module("headrace.pipeline.engine.columnar")
    return columnar.ColumnarEngine(decoder=decoder, topic="", name=config.name, form=config.predictions.form)


def _refuse_delay(model: RiverLearner, factory: str, delay: Delay) -> None:
    """Raise DelayRefused for a model that judges a record by its own label."""
    if model.judges_labels and not delay.is_none:
        raise DelayRefused(
            f"{factory} builds a detector that scores a record by its own label, which would not have come yet",
            hint="leave the delay out",
        )


def _refuse_unscored(results: Sequence[Mapping[str, Any]], subject: str) -> None:
    if not any(result["records"] for result in results):
        raise SubjectMissing(
            f"{subject} has no records there", hint="check --from and --to, or send some with `headrace produce`"
        )
    if any(result["scored"] for result in results):
        return
    refused: Counter[str] = sum((Counter(result["refused"]) for result in results), Counter())
    if refused:
        code, count = refused.most_common(1)[0]
        raise NothingScored(
            f"no prediction of {subject} could be scored: records are refused ({code}: {count:,})",
            hint=f"see why with `headrace check {subject}`",
        )
    raise NothingScored(
        f"no record of {subject} has a label that came", hint="set records.label to its path, or topics.labels"
    )


def _table(results: Sequence[Mapping[str, Any]], title: str) -> list[str]:
    """Return the results as lines of a table."""
    names = ["factory", "records", "scored", "refused"]
    names += list(dict.fromkeys(name for result in results for name in list(result)[len(names) + 1 :]))
    rows = [names] + [[_cell(result.get(name)) for name in names] for result in results]
    widths = [max(len(row[at]) for row in rows) for at in range(len(names))]
    lines = [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [title, *(line.rstrip() for line in lines)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return f"{sum(value.values()):,}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
