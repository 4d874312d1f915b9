"""`headrace init DIR --from TOPIC`: a project for an existing topic, from what its last records show."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headrace.consumers.topics import Topics
from headrace.pipeline.check.check import last_records
from headrace.pipeline.check.findings import Choices, Findings, SampleRefused, infer
from headrace.pipeline.check.model_source import model_source
from headrace.pipeline.check.project_files import name_of, refuse_existing, write
from headrace.pipeline.check.record_report import RecordReport, label_of
from headrace.pipeline.check.sample_decoder import decode_sample
from headrace.pipeline.config.config import Config, given, load_given, read
from headrace.pipeline.config.redaction import address, may_show
from headrace.pipeline.config.template import configuration
from headrace.pipeline.console import data

_CONNECTIONS = ("kafka", "redis", "registry")
_FILES = ("headrace.toml", "model.py")


def init_from(
    directory: Path, *, topic: str, file: Path | None, flags: Mapping[str, Any], records: int, choices: Choices
) -> int:
    """Read the last records of a topic, print what they are, and write a project that runs on them.

    The addresses come from `file`, if there is one, the environment and `flags`.
    Raises ConfigError, SampleRefused, ProjectExists, ProjectRefused, SubjectMissing, and errors of Reader and Topics.
    """
    refuse_existing(directory, _FILES)
    tree = given(file, flags=flags)
    config = load_given(tree, file or directory / _FILES[0])
    sample = last_records(config, topic, records)
    if not sample:
        raise SampleRefused(
            f"{topic} is empty", hint=f"send some records to {topic} first, or start from a sample: headrace init DIR"
        )
    decoded = decode_sample(config, sample)
    findings = infer(decoded.records, choices, without_value=decoded.without_value, optional=decoded.optional)
    name = name_of(directory)
    values, secrets = _connection(tree)
    values |= _topics(config, topic, name)
    if decoded.format != "json":
        values["records.format"] = decoded.format
        findings.notes.insert(0, ("format", f"{decoded.format}, with the schemas of {address(config.registry.url)}"))
    values |= {f"records.{key}": value for key, value in findings.records.items()}
    values["schema.features"] = findings.schema
    write(
        directory,
        {
            "headrace.toml": configuration(name, values),
            "model.py": model_source(findings.model, topic=topic),
        },
    )
    written = directory / _FILES[0]
    # The secrets of the new file may not be set yet: use those at hand.
    own = {**read(written), **{section: tree[section] for section in _CONNECTIONS if section in tree}}
    config = load_given(own, written)
    report = RecordReport(config, label=label_of(config)).read(sample)
    _tell(directory, topic, report, findings, secrets)
    return 0


def _topics(config: Config, topic: str, name: str) -> dict[str, str]:
    """Return the topics of the project. The outputs are named after the input, so that no two inputs share them.

    Another project of the same input may have its predictions there: then the project's name is added.
    """
    predictions = f"predictions.{topic}"
    is_taken = predictions in Topics({"log_level": 0, **config.librdkafka}).partitions()
    return {
        "topics.features": topic,
        "topics.predictions": f"{predictions}.{name}" if is_taken else predictions,
        "topics.dead_letters": f"dlq.{topic}",
    }


def _connection(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the addresses as keys of the new file, and the environment variables that its secrets refer to."""
    values: dict[str, Any] = {}
    secrets: list[str] = []

    def shown(key: str, value: Any) -> Any:
        if not isinstance(value, str) or "${" in value:
            return value
        variable = key.upper().replace(".", "_").replace("KAFKA_LIBRDKAFKA", "KAFKA")
        if key.endswith(".url"):
            parts = urlsplit(value)
            password = parts.password
            if password is None and (parts.query or parts.username):
                # A password may stand among the options, and a token in place of the user.
                secrets.append(variable)
                return f"${{env:{variable}}}"
            if password is None:
                return value
            variable = variable.replace("_URL", "_PASSWORD")
            user, _, rest = value.partition(f":{password}@")
            secrets.append(variable)
            return f"{user}:${{env:{variable}}}@{rest}"
        if may_show(key):
            return value
        secrets.append(variable)
        return f"${{env:{variable}}}"

    for section in _CONNECTIONS:
        for leaf, value in tree.get(section, {}).items():
            key = f"{section}.{leaf}"
            if isinstance(value, Mapping):
                values[key] = {name: shown(f"{key}.{name}", part) for name, part in value.items()}
            else:
                values[key] = shown(key, value)
    return values, secrets


def _tell(directory: Path, topic: str, report: RecordReport, findings: Findings, secrets: list[str]) -> None:
    """Print what was seen and decided, how the sample is read with the new project, and the next steps."""
    data.write(f"{report.records:,} records were read from the end of {topic}.\n\n")
    subject = ""
    for name, sentence in findings.notes:
        data.write(f"  {'' if name == subject else name:<10}{sentence}\n")
        subject = name
    data.write(f"\nWith this configuration, {report.summary()}\n")
    data.write("".join(f"  {line}\n" for line in report.examples()))
    for variable in secrets:
        data.write(f"\nSet the environment variable {variable}, to which headrace.toml refers.\n")
    data.write(
        f"\n{directory} holds {' and '.join(_FILES)}.\n\nNext, in {directory}:\n"
        f"  headrace check {topic:<18} how each field is read\n"
        "  headrace run                      the pipeline; --until-end stops at the end of the topic\n"
        "  headrace tail predictions -f      the predictions\n"
    )
