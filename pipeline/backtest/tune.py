"""`headrace tune`: tries models of a space on past records, and keeps each finished trial in a file beside them.

The next trial depends on nothing but the seed, its number and the trials before it: so a search that was killed goes on
to the same trials.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from headrace.pipeline.backtest.backtest import NothingScored, Options, run
from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data
from headrace.pipeline.files.record_form import TableColumns
from headrace.pipeline.files.subject import is_file
from headrace.pipeline.hinted_error import HintedError
from headrace.state.measures import key_of
from headrace.state.models import learner
from headrace.state.models.task import ModelError
from headrace.state.running_metrics import grows

T = TypeVar("T")

Sampler = Literal["grid", "tpe"]
BuildFromTrial = Callable[[Any], Any]
"""The user's function: it takes a trial, and returns a River model."""

TPE_TRIALS = 50


class TuneRefused(HintedError):
    """Raised when a search can't be done, or can't go on."""


class OptunaMissing(HintedError):
    """Raised when Optuna is not installed."""

    status = 503


class Trial(msgspec.Struct, frozen=True):
    """A finished trial: the parameters that were suggested, and the `value` of the `metric`, by River's name.

    The value is None if the model could not be tested. `distributions` are Optuna's, as JSON, by parameter.
    """

    number: int
    params: dict[str, Any]
    value: float | None
    state: Literal["complete", "failed"]
    metric: str = ""
    distributions: dict[str, str] = {}


class Search(msgspec.Struct, frozen=True):
    """What is searched, and how. A file of trials begins with it, and only an equal search goes on with that file."""

    space: str
    subject: str
    sampler: Sampler
    seed: int
    options: str
    measures: list[str]


def tune(
    config: Config,
    *,
    space: str,
    subject: str | None,
    options: Options,
    sampler: Sampler = "tpe",
    trials: int | None = None,
    seed: int = 0,
    resume: bool = False,
    csv: bool = False,
    columns: TableColumns | None = None,
    json: bool = False,
) -> int:
    """Try models of a space on a file or a topic, and print the trials.

    `trials` is their number in all; without it a grid is tried whole, and TPE makes 50. Raises TuneRefused,
    OptunaMissing, and what `backtest` raises.
    """
    if not has_optuna():
        raise OptunaMissing("tune needs Optuna", hint='install it: pip install "headrace[tune]"')
    wanted = "name a function that takes an Optuna trial and returns a River model"
    make: BuildFromTrial = learner.load_function(space, config.directory, key="tune", name="space", wanted=wanted)
    subject = config.topics.features if subject is None else subject

    def test(trial: Any) -> tuple[str, float]:
        found, [result] = run(
            config, {space: lambda: make(trial)}, subject=subject, options=options, csv=csv, columns=columns
        )
        metric = found.candidates[0].metrics.first
        if key_of(metric) not in result:
            raise NothingScored(f"{space} has no metric", hint="set quality.measures")
        return metric, result[key_of(metric)]

    asked = Search(space, subject, sampler, seed, repr(options), list(config.quality.measures))
    log = TrialLog(_log_file(config, space, subject), asked, resume=resume)
    trials = trials if trials is not None else TPE_TRIALS if sampler == "tpe" else None
    _search(log, by_grid(make) if sampler == "grid" else by_tpe(log.trials, seed=seed), test, trials=trials)
    _print(log, json=json)
    return 0


def has_optuna() -> bool:
    """Return whether Optuna is installed."""
    try:
        return importlib.util.find_spec("optuna") is not None
    except ValueError:
        # Something else has taken its name.
        return False


def _search(
    log: "TrialLog", suggest: "Iterator[Suggestion]", test: Callable[[Any], tuple[str, float]], *, trials: int | None
) -> None:
    """Do the trials that are missing."""
    for number, suggestion in enumerate(suggest):
        if trials is not None and number >= trials:
            return
        if number < len(log.trials):
            continue
        try:
            metric, value = test(suggestion.trial)
        except (ModelError, NothingScored):
            # One of the models can't be tested. If it is the first one, the space is wrong.
            if not number:
                raise
            log.add(suggestion.finished(number, "", None))
        else:
            log.add(suggestion.finished(number, metric, value))


class TrialLog:
    """The file of finished trials, one a line behind the search. A line that a crash cut off is not read.

    Raises TuneRefused for a file of another search, or if there is one that is not to be resumed.
    """

    def __init__(self, file: Path, search: Search, *, resume: bool) -> None:
        self.file = file
        self.trials: list[Trial] = []
        if file.exists() and not resume:
            raise TuneRefused(
                f"{file} has the trials of an earlier search", hint="go on with it by --resume, or delete the file"
            )
        if not file.exists():
            self._write(search, mode="wb")
            return
        whole, _, cut = file.read_bytes().rpartition(b"\n")
        lines = whole.split(b"\n") if whole else []
        if not lines or _decoded(lines[0], Search) != search:
            raise TuneRefused(
                f"{file} is of a search with other options", hint="give the same options as then, or delete the file"
            )
        found = [_decoded(line, Trial) for line in lines[1:]]
        self.trials = [trial for trial in found if trial is not None]
        if len(self.trials) < len(found):
            raise TuneRefused(f"{file} is damaged", hint="delete it, and search anew")
        if cut:
            with file.open("r+b") as opened:
                opened.truncate(len(whole) + 1)

    def add(self, trial: Trial) -> None:
        """Add a finished trial."""
        self._write(trial, mode="ab")
        self.trials.append(trial)

    def _write(self, entry: Search | Trial, *, mode: str) -> None:
        with self.file.open(mode) as opened:
            opened.write(msgspec.json.encode(entry) + b"\n")


class Suggestion:
    """The suggestion of one trial: `trial` is what the space gets."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def finished(self, number: int, metric: str, value: float | None) -> Trial:
        """Return the trial with its value; None if the model could not be tested."""
        return Trial(number, self.trial.params, value, "failed" if value is None else "complete", metric)


def by_grid(space: BuildFromTrial) -> Iterator[Suggestion]:
    """Yield all combinations of categorical suggestions, the last one changing first. Raises TuneRefused."""
    path: list[int] | None = []
    while path is not None:
        trial = GridTrial(path)
        # The space may suggest other parameters for other values: only a call tells.
        try:
            space(trial)
        except TuneRefused:
            raise
        except Exception as error:
            raise ModelError(
                f"the space raised {type(error).__name__}: {error}",
                hint="correct the function, which a grid calls first",
            ) from error
        yield Suggestion(trial)
        path = trial.next_path()


class GridTrial:
    """A trial that takes each categorical suggestion by its place in `path`, and the first choice behind its end."""

    def __init__(self, path: Sequence[int]) -> None:
        self.params: dict[str, Any] = {}
        self._path = path
        self._taken: list[tuple[int, int]] = []

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the choice of this combination."""
        if name not in self.params:
            at = self._path[len(self._taken)] if len(self._taken) < len(self._path) else 0
            self._taken.append((at, len(choices)))
            self.params[name] = choices[at]
        return self.params[name]

    def next_path(self) -> list[int] | None:
        """Return the path of the next combination, None behind the last."""
        taken = self._taken.copy()
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        return [*(at for at, _ in taken[:-1]), taken[-1][0] + 1] if taken else None

    def __getattr__(self, name: str) -> Any:
        """Refuse other suggestions."""
        if name.startswith("suggest_"):
            raise TuneRefused(
                f"the space calls {name}, and a grid has only choices",
                hint="use suggest_categorical, or --sampler tpe",
            )
        raise AttributeError(name)


def by_tpe(trials: Sequence[Trial], *, seed: int) -> "Iterator[Suggestion]":
    """Yield suggestions of Optuna's TPE sampler; each follows from the seed, its number and the trials before it.

    `trials` gets each finished trial before the next suggestion is taken.
    """
    import optuna  # noqa: PLC0415 it takes seconds to import

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    number = 0
    while True:
        digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
        sampler = optuna.samplers.TPESampler(seed=int.from_bytes(digest[:4], "little"))
        study = optuna.create_study(sampler=sampler, direction=_direction(trials))
        for finished in trials[:number]:
            study.add_trial(_frozen(optuna, finished))
        yield _TpeSuggestion(study.ask())
        number += 1


def _direction(trials: Sequence[Trial]) -> Literal["maximize", "minimize"]:
    """Return whether the metric is to grow; before the first trial it does not matter."""
    metric = next((trial.metric for trial in trials if trial.metric), "")
    return "maximize" if not metric or grows(metric) else "minimize"


def _frozen(optuna: Any, trial: Trial) -> Any:
    """Return a finished trial as Optuna has it."""
    read, state = optuna.distributions.json_to_distribution, optuna.trial.TrialState
    return optuna.trial.create_trial(
        state=state.FAIL if trial.value is None else state.COMPLETE,
        value=trial.value,
        params=trial.params,
        distributions={name: read(text) for name, text in trial.distributions.items()},
    )


class _TpeSuggestion(Suggestion):
    def finished(self, number: int, metric: str, value: float | None) -> Trial:
        """Return the trial with its value; None if the model could not be tested."""
        from optuna.distributions import distribution_to_json  # noqa: PLC0415 see by_tpe

        distributions = {name: distribution_to_json(one) for name, one in self.trial.distributions.items()}
        return msgspec.structs.replace(super().finished(number, metric, value), distributions=distributions)


def _log_file(config: Config, space: str, subject: str) -> Path:
    """Return the file of the trials: beside the file of the records, or beside the configuration for a topic."""
    if subject == "-":
        raise TuneRefused("standard input can be read once, and each trial reads the records", hint="name a file")
    beside = Path(subject) if is_file(subject) else config.directory / subject
    return beside.with_name(f"{beside.name}.{space.replace(':', '.')}.trials.jsonl")


def _decoded(line: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _print(log: TrialLog, *, json: bool) -> None:
    if json:
        fields = ("number", "params", "value", "state")
        trials = [{name: getattr(trial, name) for name in fields} for trial in log.trials]
        data.write(as_json({"trials": trials}) + "\n")
        return
    metric = next((trial.metric for trial in log.trials if trial.metric), "")
    scored = [trial for trial in log.trials if trial.value is not None]
    best = None
    if scored:
        best = (max if grows(metric) else min)(scored, key=lambda trial: trial.value or 0.0)
    data.write(f"{len(log.trials)} trials, kept in {log.file}\n")
    for trial in log.trials:
        params = " ".join(f"{name}={value}" for name, value in trial.params.items())
        value = "failed" if trial.value is None else f"{key_of(metric)} {trial.value:.4f}"
        data.write(f"{trial.number:>4}  {value}  {params}{'  the best' if trial is best else ''}\n")
