"""`headrace doctor`: checks everything that the pipeline needs, and prints one line for each check.

It changes nothing: it creates no topic, and deletes at once the only key that it writes to the store.
"""

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from headrace.consumers.client_properties import SettingsRefused
from headrace.consumers.formats.schema_cache import KINDS
from headrace.consumers.group_offsets import GroupOffsets
from headrace.consumers.topics import Topic, Topics
from headrace.pipeline import formats, model_factory
from headrace.pipeline.check.check import last_records
from headrace.pipeline.check.record_report import RecordReport
from headrace.pipeline.commands import config_command
from headrace.pipeline.config.config import Config, ConfigError
from headrace.pipeline.connection import explained
from headrace.pipeline.console import as_json, data
from headrace.pipeline.exit_code import EXIT_AWAY, EXIT_CONFIG, EXIT_FAILED
from headrace.pipeline.recovery import compatibility, consistency, key_placement
from headrace.pipeline.status.report import total_lag
from headrace.pipeline.storage import open_store
from headrace.state.model_check import model_mismatch
from headrace.state.models import learner
from headrace.state.models.task import ModelError
from headrace.state.store.health import probe
from headrace.state.store.store_errors import StoreAway, StoreRefused

T = TypeVar("T")

FindingLevel = Literal["good", "warning", "wrong", "away", "misconfigured"]

_EXITS: dict[FindingLevel, int] = {"misconfigured": EXIT_CONFIG, "away": EXIT_AWAY, "wrong": EXIT_FAILED}
_VERDICTS: dict[int, FindingLevel] = {503: "away", 401: "misconfigured", 403: "misconfigured"}
_SIGNS: dict[FindingLevel, str] = {"good": "✔", "warning": "!"}
_CONNECT_S = 3.0
_SAMPLE_RECORDS = 100
_FIELDS_SHOWN = 10


class CheckResult(msgspec.Struct, frozen=True):
    """The result of one check; `hint` is the operator's next step."""

    check: str
    verdict: FindingLevel
    message: str
    hint: str = ""


class _Failed(Exception):
    """Raised when a check failed, so that the checks which depend on it are left out."""

    def __init__(self, check: str, error: Exception) -> None:
        super().__init__(str(error))
        self._check = check
        self._error = error

    def result(self, config: Config | None = None) -> CheckResult:
        """Return the result of the check; with the configuration it names the address that did not answer."""
        error = self._error if config is None else explained(self._error, config)
        verdict = _VERDICTS.get(getattr(error, "status", 0), "wrong")
        if isinstance(error, ConfigError | SettingsRefused | ModelError):
            verdict = "misconfigured"
        advice = "start it, or check its address" if verdict == "away" else str(getattr(error, "hint", ""))
        return CheckResult(self._check, verdict, str(error), advice)


def doctor(load: Callable[[], Config], *, json: bool) -> int:
    """Check everything, print each result at once, and return the exit code of the worst one."""
    results = []
    for result in examine(load):
        results.append(result)
        if not json:
            data.write(_line(result))
            data.flush()
    verdicts = {result.verdict for result in results}
    code = next((code for verdict, code in _EXITS.items() if verdict in verdicts), 0)
    if json:
        data.write(as_json({"ok": code == 0, "checks": results}) + "\n")
    return code


def examine(load: Callable[[], Config]) -> Iterator[CheckResult]:
    """Yield the result of each check; a server that does not answer is reported once, and not asked again."""
    try:
        config = _ask("configuration", load)
        yield CheckResult("configuration", "good", config.conceal(f"the configuration of {config.name} loads"))
    except _Failed as failed:
        yield failed.result()
        return
    model: list[learner.RiverLearner] = []
    for part in (
        _model(config, model),
        _kafka(config, model),
        _store(config, model),
        _sink(config),
        _registry(config),
    ):
        try:
            for result in part:
                yield _without_secrets(result, config)
        except _Failed as failed:
            yield _without_secrets(failed.result(config), config)


def _without_secrets(result: CheckResult, config: Config) -> CheckResult:
    """Remove secrets: the message of a server or a library may quote one."""
    return CheckResult(result.check, result.verdict, config.conceal(result.message), config.conceal(result.hint))


def _model(config: Config, built: list[learner.RiverLearner]) -> Iterator[CheckResult]:
    built.append(_ask("model", lambda: config_command.build_model(config)))
    yield CheckResult("model", "good", f"{config.model.factory} builds a {built[0].task} model that can be saved")
    if config.model.scope == "global":
        yield CheckResult("model", "good", "all parts of the model can be mixed with those of other workers")
    if built[0].unread:
        names = ", ".join(built[0].unread)
        hint = "deploy the .py files as well"
        yield CheckResult("model", "warning", f"no source of {names}: a change of it goes unnoticed", hint)
    for remark in built[0].remarks:
        yield CheckResult("model", "warning", remark)


def _kafka(config: Config, model: list[learner.RiverLearner]) -> Iterator[CheckResult]:
    settings = {**config.librdkafka, "log_level": 0}
    address = config.kafka.bootstrap_servers
    topics = _ask("kafka", lambda: Topics(settings))
    there = _ask("kafka", topics.partitions)
    if _ask("kafka", topics.is_mock):
        hint = "use a real Kafka for what must last"
        yield CheckResult("kafka", "warning", f"{address} is a mock: at-least-once, and nothing is kept", hint)
        return
    yield CheckResult("kafka", "good", f"Kafka answers at {address}")
    names = config.topics
    found: dict[str, Topic] = {}
    inputs = (names.features,) if names.labels is None else (names.features, names.labels)
    for name in (*inputs, *names.outputs.values()):
        with _continuing(config) as failed:
            if name in there:
                found[name] = _ask("topics", lambda name=name: topics.describe(name))  # type: ignore[misc]
            else:
                wanted = there.get(names.features, names.partitions)
                _ask("topics", lambda name=name, wanted=wanted: topics.check_create(name, wanted))  # type: ignore[misc]
                yield CheckResult("topics", "good", f"{name} is not there; `headrace run` makes it")
        yield from failed
    yield from _topics(config, found)
    for name in found:
        with _continuing(config) as failed:
            copies = _ask("copies", lambda name=name: topics.copies(name))  # type: ignore[misc]
            if weakness := copies.weakness():
                hint = "three copies, min.insync.replicas=2"
                yield CheckResult("copies", "warning", f"{name}: {weakness}", hint)
        # The pipeline itself does not ask for copies, so a failed check is only a warning.
        yield from (msgspec.structs.replace(f, verdict="warning") if f.verdict == "wrong" else f for f in failed)
    features = found.get(names.features)
    if features is not None:
        labels = found.get(names.labels or "")
        yield from _history(config, msgspec.structs.replace(features, labels=labels), model)
        yield _records(config, model)
    for advice in key_placement.look(config, partitions=there.get(names.features, 0)):
        yield CheckResult("keys", "warning", advice.message, advice.hint)


def _topics(config: Config, found: dict[str, Topic]) -> Iterator[CheckResult]:
    names = config.topics
    features = found.get(names.features)
    for name, topic in found.items():
        is_input = topic is features or name == names.labels
        if features is not None and (
            topic.partitions < features.partitions or (is_input and topic.partitions > features.partitions)
        ):
            yield CheckResult(
                "topics",
                "wrong",
                f"{name} has {topic.partitions} partitions and {features.name} has {features.partitions}",
                f"give {name} {features.partitions} partitions (kafka-topics --alter)",
            )
        elif topic.compacted:
            dropped = "records that a model was taught with" if is_input else "records of the same key"
            yield CheckResult(
                "topics",
                "wrong",
                f"{name} is compacted: Kafka drops {dropped}",
                f"set cleanup.policy=delete on {name}",
            )
        else:
            yield CheckResult("topics", "good", f"{name} has {topic.partitions} partitions")
    declared = names.declared()
    for output, name in names.outputs.items():
        if features is not None and name in found:
            yield from _room(features, found[name], declared[output].bytes_wanted(features.value_bytes_max))


def _room(features: Topic, topic: Topic, wanted: int) -> Iterator[CheckResult]:
    """Warn when an output topic takes less than the records of the features topic need there."""
    if topic.value_bytes_max >= wanted:
        return
    yield CheckResult(
        "topics",
        "warning",
        f"{topic.name} takes {topic.value_bytes_max} bytes, {features.name} {features.value_bytes_max}: "
        "a large record that is refused may not fit whole, and its dead letter leaves a part out",
        f"set max.message.bytes={wanted} on {topic.name}",
    )


def _history(config: Config, topic: Topic, model: list[learner.RiverLearner]) -> Iterator[CheckResult]:
    labels = None if topic.labels is None else topic.labels.name
    places = _ask(
        "history", lambda: GroupOffsets(config.librdkafka, group=config.name, topic=topic.name, labels=labels)
    )
    read = {partition: consistency.by_mark(place) for partition, place in _ask("history", places.read).items()}
    is_sound = True
    marks = [
        found for place in read.values() if (found := consistency.mark_of(place.metadata, place.committed)) is not None
    ]
    scope = config.model.scope
    others = (compatibility.mark_mismatch(mark, scope=scope, spec=model[0].spec) for mark in marks if model)
    if (other := next(filter(None, others), None)) is not None:
        is_sound = False
        yield CheckResult("history", "wrong", other.message, f"{other.hint}, or {consistency.FRESH}")
    for error in consistency.faults(topic, read, _notes(config, read)):
        is_sound = False
        yield CheckResult("history", "wrong", str(error), error.hint)
    if read and is_sound:
        yield CheckResult("history", "good", f"the log reaches back; {total_lag(read.values())} records to do")


def _records(config: Config, model: list[learner.RiverLearner]) -> CheckResult:
    """Decode the last records of the features topic, and say how they are read."""
    topic = config.topics.features
    sample = _ask("records", lambda: last_records(config, topic, _SAMPLE_RECORDS))
    report = RecordReport(config, label=model[0].label if model else lambda label: label).read(sample)
    if not sample:
        return CheckResult("records", "good", f"{topic} has no records yet")
    fields = [f"{name} ({field['type']})" for name, field in report.fields().items()]
    more = f" and {len(fields) - _FIELDS_SHOWN:,} more" if len(fields) > _FIELDS_SHOWN else ""
    features = f"; features: {', '.join(fields[:_FIELDS_SHOWN])}{more}" if fields else ""
    message = f"of the last ones in {topic}, {report.summary()}{features}"
    if report.is_good:
        return CheckResult("records", "good", message)
    hint = f"{report.examples()[0]}; `headrace check {topic}` says more"
    return CheckResult("records", "warning", message, hint)


def _notes(config: Config, partitions: Iterable[int]) -> dict[int, Mapping[str, Any]]:
    """Return the notes of the newest snapshots; nothing if the store is away, which another check reports."""
    store = open_store(config)
    with contextlib.suppress(StoreAway, StoreRefused):
        return {partition: notes[0] for partition in partitions if (notes := store.notes(partition))}
    return {}


def _store(config: Config, model: list[learner.RiverLearner]) -> Iterator[CheckResult]:
    store = open_store(config)
    health = _ask("store", lambda: probe(store, name=config.name))
    yield CheckResult("store", "good", f"{health.server or 'the store'} answers, and takes a key and its deletion")
    if not health.server:
        message = "its user may not call INFO: whether it drops keys, or keeps them over a restart, is not known"
        yield CheckResult(
            "store", "warning", message, "set maxmemory-policy noeviction and appendonly yes, or allow INFO"
        )
    if health.policy not in {None, "noeviction"}:
        message = f"maxmemory-policy is {health.policy}: when memory is short, models are dropped"
        yield CheckResult("store", "warning", message, "set maxmemory-policy noeviction")
    if health.persistent is False:
        message = "neither AOF nor RDB is on: after a restart of the store, models are learned again from the log"
        yield CheckResult("store", "warning", message, "set appendonly yes")
    partitions = _ask("store", store.partitions)
    if not (model and partitions):
        return
    found = _ask("store", lambda: store.load(partitions[0]))
    for fault in found.faults:
        yield CheckResult("store", "warning", f"partition {partitions[0]}, {fault}", "an older version is used")
    if found.snapshot is None or not found.snapshot.counts.learned:
        return
    saved = found.snapshot.answering
    # With the scope "global" the models lie elsewhere, in a form of their own.
    scope = config.model.scope
    codec = saved.codec if scope == "global" else model_factory.fastest(config, model[0]).codec
    found_other = model_mismatch(saved, scope=scope, spec=model[0].spec, codec=codec)
    if found_other is not None:
        hint = f"{found_other.hint}, or leave it behind: `headrace run --on-state-loss fresh`"
        yield CheckResult("store", "wrong", found_other.message, hint)


def _sink(config: Config) -> Iterator[CheckResult]:
    http = config.sink.http
    if http is None:
        return
    parts = urlsplit(http.url)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        socket.create_connection(address, min(_CONNECT_S, http.timeout)).close()
    except OSError as error:
        message = f"{address[0]}:{address[1]} does not answer: {error}"
        yield CheckResult("http sink", "away", message, "check sink.http.url; the pipeline pauses while it is away")
    else:
        yield CheckResult("http sink", "good", f"{address[0]}:{address[1]} answers")


def _registry(config: Config) -> Iterator[CheckResult]:
    kinds = {form: KINDS[form] for form in (config.schema_format, config.predictions.format) if form in KINDS}
    for form, kind in kinds.items():
        registry = _ask("registry", lambda kind=kind: formats.connect(config, kind))  # type: ignore[misc]
        _ask("registry", registry.check)
        yield CheckResult("registry", "good", f"the schema registry answers, and the libraries of {form} are there")


@contextlib.contextmanager
def _continuing(config: Config) -> Iterator[list[CheckResult]]:
    """Continue after a failed check, with its result in the list."""
    results: list[CheckResult] = []
    try:
        yield results
    except _Failed as failed:
        results.append(failed.result(config))


def _ask(name: str, call: Callable[[], T]) -> T:
    """Call a function, and turn an error with a hint into the result of a failed check. Raises _Failed."""
    try:
        return call()
    except Exception as error:
        if getattr(error, "hint", None) is None:
            raise
        raise _Failed(name, error) from error


def _line(result: CheckResult) -> str:
    line = f"{_SIGNS.get(result.verdict, '✘')} {result.check}: {result.message}\n"
    return f"{line}  → {result.hint}\n" if result.hint else line
