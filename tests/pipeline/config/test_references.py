"""References in the configuration: what they stand for, where they may stand, and how one that is missing is told."""

import os
from pathlib import Path
from typing import Any

import pytest

from headrace.pipeline.commands import config_command
from headrace.pipeline.config.config import Config, ConfigError, load

SECRET = "pa55wörd ${env:NOT} \\ \" '"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in os.environ:
        if variable.upper().startswith("HEADRACE__"):
            monkeypatch.delenv(variable)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SECRET", SECRET)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "secret").write_text(f"{SECRET}\n")
    return tmp_path / "headrace.toml"


def loaded(file: Path, text: str, **options: Any) -> Config:
    file.write_text(text)
    return load(file, **options)


@pytest.mark.parametrize("reference", ["${env:SECRET}", "${file:run/secret}", "${file:%s/run/secret}"])
def test_a_reference_in_any_string_is_replaced_by_its_value(file: Path, reference: str) -> None:
    said = reference.replace("%s", str(file.parent))
    config = loaded(
        file,
        f'[kafka.librdkafka]\n"sasl.password" = "{said}"\n"ssl.key.pem" = "a{said}b{said}"\n'
        f'[sink.http]\nurl = "http://host"\nheaders = {{authorization = "Bearer {said}"}}\n'
        f'[schema.features.a]\ntype = "string"\nvalues = ["x", "{said}"]\n',
    )
    assert config.kafka.librdkafka == {"sasl.password": SECRET, "ssl.key.pem": f"a{SECRET}b{SECRET}"}
    assert config.sink.http is not None
    assert config.sink.http.headers["authorization"].get_secret_value() == f"Bearer {SECRET}"
    assert config.schema_.features["a"].values == ("x", SECRET)


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"a", "a"), (b"a\n", "a"), (b"a\n\n", "a\n"), (b"a\r\n", "a"), (b" a \n", " a ")],
)
def test_of_a_file_only_its_last_newline_is_left_out(file: Path, content: bytes, value: str) -> None:
    (file.parent / "run" / "secret").write_bytes(content)
    config = loaded(file, '[kafka.librdkafka]\n"sasl.password" = "${file:run/secret}"\n')
    assert config.kafka.librdkafka["sasl.password"] == value


def test_variables_and_flags_may_refer_and_numbers_come_from_text(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE__KAFKA__LIBRDKAFKA", '{"sasl.password": "${env:SECRET}"}')
    monkeypatch.setenv("HEADRACE__SINK__HTTP__HEADERS__AUTHORIZATION", "${env:SECRET}")
    monkeypatch.setenv("PORT", "9100")
    monkeypatch.setenv("STORE", "host:1/0")
    config = loaded(
        file,
        '[sink.http]\nurl = "http://host"\n[metrics]\nport = "${env:PORT}"\n',
        flags={"redis.url": "redis://${env:STORE}"},
    )
    assert config.kafka.librdkafka["sasl.password"] == SECRET
    assert config.sink.http is not None
    assert config.sink.http.headers["authorization"].get_secret_value() == SECRET
    assert config.metrics.port == 9100
    assert config.redis.url.get_secret_value() == "redis://host:1/0"


def test_two_dollars_are_a_dollar_that_is_meant(file: Path) -> None:
    config = loaded(file, '[kafka.librdkafka]\n"sasl.password" = "$${env:SECRET} $5 {a} $$"\n')
    assert config.kafka.librdkafka["sasl.password"] == "${env:SECRET} $5 {a} $$"
    assert config.secrets == {}


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("${env:MISSING}", "MISSING is not set"),
        ("${file:run/missing}", "missing can't be read: No such file"),
        ("${file:run}", "run is not a file"),
        ("${file:/dev/zero}", "/dev/zero is not a file"),
        ("${file:binary}", "binary is not UTF-8 text"),
        ("${file:large}", "more than 1,000,000 bytes"),
        ("${file:pipe}", "pipe is not a file"),
        ("${file:empty}", "the file empty is empty"),
        ("${env:EMPTY}", "the environment variable EMPTY is empty"),
        ("${vault:MISSING}", "begins neither"),
        ("${env:}", "begins neither"),
        ("${", "begins neither"),
        ("hunter2${oops", "begins neither"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused_by_the_name_of_its_key(
    file: Path, monkeypatch: pytest.MonkeyPatch, reference: str, words: str
) -> None:
    monkeypatch.setenv("EMPTY", "")
    (file.parent / "empty").write_bytes(b"\n")
    (file.parent / "binary").write_bytes(b"pa55\xff")
    (file.parent / "large").write_bytes(b"a" * 1_000_001)
    os.mkfifo(file.parent / "pipe")
    with pytest.raises(ConfigError) as caught:
        loaded(file, f'[kafka.librdkafka]\n"sasl.password" = "{reference}"\n')
    assert "kafka.librdkafka.sasl.password" in str(caught.value)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value) + caught.value.hint
    assert "\n" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        'name = "a ${env:MARK}"',
        '[kafka]\nbootstrap_servers = "${env:MARK}"',
        '[topics]\nfeatures = "${env:MARK}"\npredictions = "${env:MARK}"',
        '[batch]\nrecords_max = "${env:MARK}"',
        '[snapshot]\ninterval = "${env:MARK}"',
        '[delivery]\nguarantee = "${env:MARK}"',
        '[model]\nfactory = "${env:MARK} "',
        'redis = "${env:MARK}"',
        '[kafka]\nlibrdkafka = "${env:MARK}"',
        '[schema.features.a]\nvalues = ["${env:MARK}", 1]',
    ],
)
def test_no_error_shows_the_value_of_a_reference(file: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MARK", "m4rked")
    with pytest.raises(ConfigError) as caught:
        loaded(file, text)
    assert "m4rked" not in str(caught.value) + caught.value.hint


def test_the_value_of_a_reference_is_hidden_under_any_key(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MARK", "m4rked")
    monkeypatch.setenv("NUMBER", "7")
    config = loaded(
        file,
        'name = "${env:MARK}"\n[topics]\nfeatures = "${env:MARK}"\npredictions = "plain"\n'
        '[kafka]\nbootstrap_servers = "${env:MARK}:1"\n'
        '[snapshot]\nkeep = "${env:NUMBER}"\n[schema.features.a]\nvalues = ["x", "${env:MARK}"]\n',
    )
    for json in (False, True):
        config_command.show(config, file=file, flags={}, json=json)
        shown = capsys.readouterr().out
        assert "m4rked" not in shown
        assert "plain" in shown
    config_command.show(config, file=file, flags={}, json=False)
    lines = capsys.readouterr().out.splitlines()
    assert {'name = "***"  # file', 'kafka.bootstrap_servers = "***"  # file', 'snapshot.keep = "***"  # file'} <= {
        *lines
    }
    assert config.conceal("no such host: m4rked:1") == "no such host: ***"
