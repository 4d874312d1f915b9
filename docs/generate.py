"""Fills in what the pages beside it take from the code, and writes deploy/headrace.toml: `make docs`.

A generated part stands between `<!-- NAME -->` and `<!-- /NAME -->`; the rest of a page is written by hand.
"""  # noqa: INP001 a script that stands alone

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from prometheus_client.metrics import MetricWrapperBase
from pydantic_core import PydanticUndefined

from headrace.consumers.refusal import CODES
from headrace.pipeline.commands import cli
from headrace.pipeline.config.config import describe, describe_tables
from headrace.pipeline.config.lifecycle_section import ChallengerConfig
from headrace.pipeline.config.sections import FeatureConfig, TopicsConfig
from headrace.pipeline.config.template import configuration as whole_file
from headrace.pipeline.config.template import toml
from headrace.pipeline.exit_code import EXIT_AWAY, EXIT_CONFIG, EXIT_FAILED
from headrace.pipeline.serve.counters import SharedCounters
from headrace.pipeline.telemetry import Telemetry

DOCS = Path(__file__).parent
FEATURE = "schema.features.NAME"
CHALLENGER = "challengers.NAME"
INPUTS = ("features", "labels")
GROWTH = DOCS / "growth.json"
CENSUS = DOCS / "models.json"

_SHARED = frozenset({"config", "name", "bootstrap_servers", "redis_url"})
_EXITS = {
    0: "The command did what it was asked to do.",
    EXIT_FAILED: "The command failed.",
    2: "The command line is wrong.",
    EXIT_AWAY: "A dependency is unavailable.",
    EXIT_CONFIG: "The configuration is wrong.",
}

Lines = Iterator[str]


def pages() -> dict[Path, str]:
    """Return each page as it should be."""
    return {page: filled(page.read_text(encoding="utf-8")) for page in sorted(DOCS.glob("*.md"))}


def filled(text: str) -> str:
    """Fill in the generated parts of a page."""
    for name, write in PARTS.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        if start:
            _, end, after = rest.partition(f"<!-- /{name} -->\n")
            part = "\n".join(write()).strip()
            text = f"{before}{start}\n{part}\n\n{end}{after}"
    return text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Lines:
    """Yield the lines of a table."""
    for row in (head, ["---"] * len(head), *rows):
        cells = (cell.replace("|", r"\|") for cell in row)
        yield f"| {' | '.join(cells)} |"


def configuration() -> Lines:
    """Yield the keys, a table for each section."""
    named = {FEATURE: FeatureConfig, CHALLENGER: ChallengerConfig}
    keys = [*describe(), *(key for name, table in named.items() for key in describe(table, f"{name}."))]
    meanings = {name: table.__doc__ or "" for name, table in named.items()}
    for section, meaning in {"": "", **dict(describe_tables()), **meanings}.items():
        rows = [_key(*key) for key in keys if key[0].rpartition(".")[0] == section]
        if rows:
            yield from ["", f"## [{section}]", "", meaning, ""] if section else []
            yield from table(("key", "default", "meaning"), rows)


def _key(key: str, default: Any, meaning: str) -> tuple[str, str, str]:
    is_empty = default in (None, PydanticUndefined, "", (), {})
    return f"`{key}`", "" if is_empty else f"`{toml(key, default)}`", meaning


def metrics() -> Lines:
    """Yield all metrics."""
    rows = []
    for metric in vars(Telemetry()).values():
        for family in metric.collect() if isinstance(metric, MetricWrapperBase) else ():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # noqa: SLF001 it has no public name
            rows.append((f"`{name}`", family.type, labels, family.documentation))
    yield from table(("metric", "type", "labels", "meaning"), rows)


def serve_metrics() -> Lines:
    """Yield the metrics of the server."""
    rows = []
    for family in SharedCounters(1).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        rows.append((f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation))
    yield from table(("metric", "type", "labels", "meaning"), rows)


def rights() -> Lines:
    """Yield the rights that a run needs in Kafka."""
    inputs, outputs = (
        " and ".join(f"`topics.{name}`" for name in names) for names in (INPUTS, TopicsConfig.declared())
    )
    rows = {
        f"the topics of {inputs}": "READ, DESCRIBE, DESCRIBE_CONFIGS",
        f"the topics of {outputs}": "WRITE, DESCRIBE, DESCRIBE_CONFIGS",
        "topics that don't exist yet": "CREATE",
        "the group `name`": "READ",
        "transactional ids that start with `name`": "WRITE, DESCRIBE",
    }
    yield from table(("on", "rights"), rows.items())


def codes() -> Lines:
    """Yield the codes of dead letters."""
    yield from table(("code", "meaning"), ((f"`{code}`", meaning) for code, meaning in CODES.items()))


def exit_codes() -> Lines:
    """Yield the exit codes."""
    yield from table(("exit code", "meaning"), ((f"{code}", meaning) for code, meaning in _EXITS.items()))


def shared_options() -> Lines:
    """Yield the options that all commands share."""
    yield from table(("option", "meaning"), map(_option, typer.main.get_command(cli.app).params))


def commands() -> Lines:
    """Yield each command with its arguments and its own options."""
    for path, command in _walk(typer.main.get_command(cli.app)):
        own = [parameter for parameter in command.params if parameter.name not in _SHARED]
        arguments = [p for p in own if p.param_type_name == "argument"]
        names = " ".join(p.metavar if p.required else f"[{p.metavar}]" for p in arguments)
        yield from ("", f"## headrace {' '.join(path)}", "", f"`headrace {' '.join((*path, names)).strip()}`", "")
        yield from (command.help or "").splitlines()
        yield from ["", *table(("option", "meaning"), map(_option, own))] if own else []


def _walk(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, child in command.commands.items():
        yield from _walk(child, *path, name) if hasattr(child, "commands") else [((*path, name), child)]


def _option(parameter: Any) -> tuple[str, str]:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar}`", parameter.help
    value = f" {parameter.metavar}" if parameter.metavar else ""
    names = ", ".join(f"`{name}{value}`" for name in parameter.opts)
    has_default = parameter.default is not None and not parameter.is_flag
    return names, parameter.help + (f" Default: `{parameter.default}`." if has_default else "")


def growth() -> Lines:
    """Yield what `make bench` measured, as `growth.json` keeps it."""
    told = json.loads(GROWTH.read_text(encoding="utf-8"))
    plan, machine, rows = told["arguments"], told["machine"], told["growth"]
    yield (
        f'`make bench ARGS="--only {",".join(plan["parts"])} --growth-records {plan["growth_count"]} --repeats '
        f'{plan["repeats"]}"` printed this on {machine["cores"]} cores, which the broker shares, with Python '
        f"{machine['python']}, River {machine['river']} and Apache Kafka {machine['kafka']}:"
    )
    yield ""
    head = ("run", "records/s", "time", "CPU", "CPU of the broker", "times that of", "memory of a key")
    yield from table(head, (_cost(row, rows) for row in rows.values()))
    races = [(row["title"], row["race"]) for row in rows.values() if row["race"]]
    yield ""
    yield from table(
        ("Headrace, exactly-once", "speed", "times that of"),
        ((title, _spread(race["speed"]), rows[race["beside"]]["title"]) for title, race in races),
    )


def _cost(row: Any, rows: Any) -> Sequence[str]:
    beside = rows[row["beside"]]
    ratios = (_spread(row["time"]), f"{row['cpu']['median']:.2f}", f"{row['broker']['median']:.2f}", beside["title"])
    key = f"{row['key_bytes']:,.0f} bytes" if row["key_bytes"] else ""
    return row["title"], f"{row['records_s']:,}", *(("", "", "", "") if row is beside else ratios), key


def _spread(found: Any) -> str:
    return f"{found['median']:.2f} ({found['min']:.2f}-{found['max']:.2f})"


def census() -> Lines:
    """Yield a row of `models.json` for each estimator of River: whether it runs, and how."""
    rows = json.loads(CENSUS.read_text(encoding="utf-8"))
    yield from table(
        ("estimator", "task", "runs", "by key", "shared", "why not"),
        (
            (
                f"`{row['name']}`",
                row["task"],
                {"river": "as River"}.get(row["runs"], row["runs"]),
                *("yes" if row[name] else "no" for name in ("by_key", "shared")),
                row["why"],
            )
            for row in rows
        ),
    )


PARTS: dict[str, Callable[[], Lines]] = {
    "configuration": configuration,
    "metrics": metrics,
    "serve metrics": serve_metrics,
    "codes": codes,
    "rights": rights,
    "exit codes": exit_codes,
    "shared options": shared_options,
    "commands": commands,
    "growth": growth,
    "census": census,
}
"""What is generated, by the name of its part."""


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
    (DOCS.parent / "deploy/headrace.toml").write_text(whole_file("headrace"), encoding="utf-8")
