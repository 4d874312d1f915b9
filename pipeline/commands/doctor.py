"""`headrace doctor`: connects to everything that the pipeline needs, and says what is wrong, one line a check.

It changes nothing: topics are not made, and the one key that it writes to the store is deleted at once.
"""

import contextlib
import importlib
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from headrace.consumers.broker_checks import BrokerChecks
from headrace.consumers.client_properties import SettingsRefused
from headrace.consumers.group_offsets import GroupOffsets
from headrace.consumers.topics import Topic, Topics
from headrace.pipeline import model_factory
from headrace.pipeline.commands import config_command
from headrace.pipeline.commands.status_report import total_lag
from headrace.pipeline.config.config import Config, ConfigError
from headrace.pipeline.console import as_json, data
from headrace.pipeline.recovery import compatibility, consistency, key_placement
from headrace.pipeline.storage import open_store
from headrace.state.models import learner
from headrace.state.store.health import probe
from headrace.state.store.store_errors import StoreAway, StoreRefused

T = TypeVar("T")

FindingLevel = Literal["good", "warning", "wrong", "away", "misconfigured"]

_EXITS: tuple[tuple[FindingLevel, int], ...] = (("misconfigured", 78), ("away", 69), ("wrong", 1))
_SIGNS: dict[FindingLevel, str] = {"good": "✔", "warning": "!"}
_CONNECT_S = 3.0
_OFFSET_MAX = 2**63 - 1


class Finding(msgspec.Struct, frozen=True):
    """What one check found; `hint` is what to do about it."""

    check: str
    verdict: FindingLevel
    message: str
    hint: str = ""


class _Failed(Exception):
    """Raised when a check could not be made, so that those which build on it are left out."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def doctor(load: Callable[[], Config], *, json: bool) -> int:
    """Check everything, print each finding as it comes, and return the exit code of the worst."""
    findings = []
    for finding in examine(load):
        findings.append(finding)
        if not json:
            data.write(_line(finding))
            data.flush()
    verdicts = {finding.verdict for finding in findings}
    code = next((code for verdict, code in _EXITS if verdict in verdicts), 0)
    if json:
        data.write(as_json({"ok": code == 0, "checks": findings}) + "\n")
    return code


def examine(load: Callable[[], Config]) -> Iterator[Finding]:
    """Yield a finding for each check; what can't be reached is told once, and not asked further."""
    try:
        config = _ask("configuration", load)
        yield Finding("configuration", "good", config.conceal(f"the configuration of {config.name} loads"))
    except _Failed as failed:
        yield failed.finding
        return
    model: list[learner.RiverLearner] = []
    for part in (
        _model(config, model),
        _kafka(config, model),
        _store(config, model),
        _sink(config),
    ):
        try:
            for finding in part:
                yield _discreet(finding, config)
        except _Failed as failed:
            yield _discreet(failed.finding, config)


def _discreet(finding: Finding, config: Config) -> Finding:
    """Keep secrets out of what others said."""
    return Finding(finding.check, finding.verdict, config.conceal(finding.message), config.conceal(finding.hint))


def _model(config: Config, built: list[learner.RiverLearner]) -> Iterator[Finding]:
    _ask("model", lambda: config_command.find_module(config))
    # Its module is imported there, which may fail as the model may.
    built.append(_ask("model", lambda: model_factory.builder(config)()))  # noqa: PLW0108
    yield Finding("model", "good", f"{config.model.factory} builds a {built[0].task} model that can be saved")
    if config.model.scope == "global":
        _ask("model", lambda: importlib.import_module("headrace.state.shared.merge").check(built[0].model))
        yield Finding("model", "good", "all parts of the model can be mixed with those of other workers")
    if built[0].unread:
        names = ", ".join(built[0].unread)
        hint = "deploy the .py files as well"
        yield Finding("model", "warning", f"no source of {names}: a change of it goes unnoticed", hint)
    if built[0].unseeded:
        yield Finding("model", "warning", "the model draws random numbers without a seed", "give it one: seed=1")


def _kafka(config: Config, model: list[learner.RiverLearner]) -> Iterator[Finding]:
    settings = {**config.librdkafka, "log_level": 0}
    address = config.kafka.bootstrap_servers
    broker = _ask("kafka", lambda: BrokerChecks(settings))
    topics = Topics(settings)
    there = _ask("kafka", topics.partitions)
    if _ask("kafka", topics.is_mock):
        hint = "use a real Kafka for what must last"
        yield Finding("kafka", "warning", f"{address} is a mock: at-least-once, and nothing is kept", hint)
        return
    yield Finding("kafka", "good", f"Kafka answers at {address}")
    names = config.topics
    found: dict[str, Topic] = {}
    inputs = (names.features,) if names.labels is None else (names.features, names.labels)
    for name in (*inputs, *names.outputs.values()):
        with _telling() as told:
            if name in there:
                found[name] = _ask("topics", lambda name=name: topics.describe(name))  # type: ignore[misc]
            else:
                wanted = there.get(names.features, names.partitions)
                _ask("topics", lambda name=name, wanted=wanted: broker.check_create(name, wanted))  # type: ignore[misc]
                yield Finding("topics", "good", f"{name} is not there; `headrace run` makes it")
        yield from told
    yield from _topics(config, found)
    for name in found:
        with _telling() as told:
            copies = _ask("copies", lambda name=name: broker.copies(name))  # type: ignore[misc]
            if weakness := copies.weakness():
                hint = "three copies, min.insync.replicas=2"
                yield Finding("copies", "warning", f"{name}: {weakness}", hint)
        # What the pipeline does not ask itself is no reason to fail.
        yield from (msgspec.structs.replace(f, verdict="warning") if f.verdict == "wrong" else f for f in told)
    features = found.get(names.features)
    if features is not None:
        labels = found.get(names.labels or "")
        yield from _history(config, msgspec.structs.replace(features, labels=labels), model)
    for advice in key_placement.look(config, partitions=there.get(names.features, 0)):
        yield Finding("keys", "warning", advice.message, advice.hint)


def _topics(config: Config, found: dict[str, Topic]) -> Iterator[Finding]:
    names = config.topics
    features = found.get(names.features)
    for name, topic in found.items():
        is_input = topic is features or name == names.labels
        if features is not None and (
            topic.partitions < features.partitions or (is_input and topic.partitions > features.partitions)
        ):
            yield Finding(
                "topics",
                "wrong",
                f"{name} has {topic.partitions} partitions and {features.name} has {features.partitions}",
                f"give {name} {features.partitions} partitions (kafka-topics --alter)",
            )
        elif topic.compacted:
            what = "records that a model was taught with" if is_input else "records of the same key"
            yield Finding(
                "topics",
                "wrong",
                f"{name} is compacted: Kafka drops {what}",
                f"set cleanup.policy=delete on {name}",
            )
        else:
            yield Finding("topics", "good", f"{name} has {topic.partitions} partitions")
    declared = names.declared()
    for output, name in names.outputs.items():
        if features is not None and name in found:
            yield from _room(features, found[name], declared[output].bytes_wanted(features.value_bytes_max))


def _room(features: Topic, topic: Topic, wanted: int) -> Iterator[Finding]:
    """Warn when an output topic takes less than the records of the features topic need there."""
    if topic.value_bytes_max >= wanted:
        return
    yield Finding(
        "topics",
        "warning",
        f"{topic.name} takes {topic.value_bytes_max} bytes, {features.name} {features.value_bytes_max}: "
        "a large record that is refused may not fit whole, and its dead letter leaves a part out",
        f"set max.message.bytes={wanted} on {topic.name}",
    )


def _history(config: Config, topic: Topic, model: list[learner.RiverLearner]) -> Iterator[Finding]:
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
        yield Finding("history", "wrong", other.message, f"{other.hint}, or {consistency.FRESH}")
    for error in consistency.faults(topic, read, _notes(config, read)):
        is_sound = False
        yield Finding("history", "wrong", str(error), error.hint)
    if read and is_sound:
        yield Finding("history", "good", f"the log reaches back; {total_lag(read.values())} records to do")


def _notes(config: Config, partitions: Iterable[int]) -> dict[int, Mapping[str, Any]]:
    """Return the store's notes of the newest snapshots; of a store that is away another check tells."""
    store = open_store(config)
    with contextlib.suppress(StoreAway, StoreRefused):
        return {partition: notes[0] for partition in partitions if (notes := store.notes(partition))}
    return {}


def _store(config: Config, model: list[learner.RiverLearner]) -> Iterator[Finding]:
    store = open_store(config)
    health = _ask("store", lambda: probe(store, name=config.name))
    yield Finding("store", "good", f"{health.server or 'the store'} answers, and takes a key and its deletion")
    if not health.server:
        message = "its user may not call INFO: whether it drops keys, or keeps them over a restart, is not known"
        yield Finding("store", "warning", message, "set maxmemory-policy noeviction and appendonly yes, or allow INFO")
    if health.policy not in {None, "noeviction"}:
        message = f"maxmemory-policy is {health.policy}: when memory is short, models are dropped"
        yield Finding("store", "warning", message, "set maxmemory-policy noeviction")
    if health.persistent is False:
        message = "neither AOF nor RDB is on: after a restart of the store, models are learned again from the log"
        yield Finding("store", "warning", message, "set appendonly yes")
    partitions = _ask("store", store.partitions)
    if not (model and partitions):
        return
    found = _ask("store", lambda: store.load(partitions[0], at_most=_OFFSET_MAX))
    for fault in found.faults:
        yield Finding("store", "warning", f"partition {partitions[0]}, {fault}", "an older version is used")
    saved = found.snapshot
    if saved is None:
        return
    # With the other scopes the models lie elsewhere, in a form of their own.
    scope = config.model.scope
    codec = model_factory.fastest(config, model[0]).codec if scope == "partition" else saved.codec
    found_other = compatibility.model_mismatch(saved, scope=scope, spec=model[0].spec, codec=codec)
    if found_other is not None:
        hint = f"{found_other.hint}, or leave it behind: `headrace run --on-state-loss fresh`"
        yield Finding("store", "wrong", found_other.message, hint)


def _sink(config: Config) -> Iterator[Finding]:
    http = config.sink.http
    if http is None:
        return
    parts = urlsplit(http.url)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        socket.create_connection(address, min(_CONNECT_S, http.timeout)).close()
    except OSError as error:
        message = f"{address[0]}:{address[1]} does not answer: {error}"
        yield Finding("http sink", "away", message, "check sink.http.url; the pipeline pauses while it is away")
    else:
        yield Finding("http sink", "good", f"{address[0]}:{address[1]} answers")


@contextlib.contextmanager
def _telling() -> Iterator[list[Finding]]:
    """Go on after a check that failed, with its finding in the list."""
    findings: list[Finding] = []
    try:
        yield findings
    except _Failed as failed:
        findings.append(failed.finding)


def _ask(name: str, call: Callable[[], T]) -> T:
    """Call, and turn an error that knows what to do about it into a finding. Raises _Failed."""
    try:
        return call()
    except Exception as error:
        hint: Any = getattr(error, "hint", None)
        if hint is None:
            raise
        verdict: FindingLevel = "away" if getattr(error, "status", 0) == 503 else "wrong"  # noqa: PLR2004 HTTP's number
        if isinstance(error, ConfigError | SettingsRefused | learner.ModelError):
            verdict = "misconfigured"
        if verdict == "away":
            hint = "start it, or check its address in the configuration"
        raise _Failed(Finding(name, verdict, str(error), str(hint))) from error


def _line(finding: Finding) -> str:
    line = f"{_SIGNS.get(finding.verdict, '✘')} {finding.check}: {finding.message}\n"
    return f"{line}  → {finding.hint}\n" if finding.hint else line
