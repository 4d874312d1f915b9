"""The configuration: what wins over what, what is refused and with which words, what stays secret."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.consumers.client_properties import OWNED_SETTINGS
from headrace.consumers.consumer_errors import ConnectionFaults
from headrace.pipeline.commands import config_command
from headrace.pipeline.config.config import ConfigError, _token, describe, load


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in os.environ:
        if variable.upper().startswith("HEADRACE__"):
            monkeypatch.delenv(variable)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "headrace.toml"


def refused(file: Path, text: str, **options: Any) -> ConfigError:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, **options)
    assert caught.value.hint
    return caught.value


def test_an_empty_file_gives_the_defaults_and_names_the_dead_letters_after_the_features(file: Path) -> None:
    file.write_text('[topics]\nfeatures = "orders"\n')
    config = load(file)
    assert config.name == "headrace"
    assert config.topics.dead_letters == "dlq.orders"
    assert config.directory == file.parent


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ('nam = "x"', "nam", "name"),
        ('[kafka]\nbootstrap_server = "a:1"', "kafka.bootstrap_server", "kafka.bootstrap_servers"),
        ("[dlq]\nflod_guard = true", "dlq.flod_guard", "dlq.flood_guard"),
        ('[topcs]\nfeatures = "x"', "topcs", "topics"),
        ('[schema.features.amount]\ntyp = "number"', "schema.features.amount.typ", "schema.features.amount.type"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_known_one_is_named(
    file: Path, text: str, key: str, near: str
) -> None:
    error = refused(file, text)
    assert key in str(error)
    assert near in error.hint


def test_a_variable_that_names_no_key_is_refused_and_the_nearest_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE__KAFKA__BOOTSTRAP_SERVER", "a:1")
    error = refused(file, "")
    assert "HEADRACE__KAFKA__BOOTSTRAP_SERVER" in str(error)
    assert "KAFKA__BOOTSTRAP_SERVERS" in error.hint


def test_the_environment_wins_over_the_file_key_by_key(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('name = "file"\n[topics]\nfeatures = "file"\npredictions = "kept"\n')
    monkeypatch.setenv("HEADRACE__NAME", "environment")
    monkeypatch.setenv("HEADRACE__TOPICS__FEATURES", "environment")
    config = load(file)
    assert (config.name, config.topics.features) == ("environment", "environment")
    assert config.topics.predictions == "kept"


def test_the_environment_declares_features_and_no_other_variable_does(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE__SCHEMA__FEATURES__amount__MAX", "9.5")
    monkeypatch.setenv("SCHEMA", "public")
    file.write_text("")
    assert load(file).schema_.features["amount"].max == 9.5


def test_flags_win_over_the_environment_and_leave_the_rest(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[redis]\nurl = "redis://:word@file:1/0"\n')
    monkeypatch.setenv("HEADRACE__NAME", "environment")
    monkeypatch.setenv("HEADRACE__KAFKA__BOOTSTRAP_SERVERS", "environment:1")
    config = load(file, flags={"kafka.bootstrap_servers": "flag:1"})
    assert config.kafka.bootstrap_servers == "flag:1"
    assert config.name == "environment"
    assert config.redis.url.get_secret_value() == "redis://:word@file:1/0"
    assert config.directory == file.parent


def test_a_flag_with_a_bad_value_is_refused_by_name(file: Path) -> None:
    error = refused(file, "", flags={"kafka.bootstrap_servers": "nowhere"})
    assert "kafka.bootstrap_servers" in str(error)
    assert "nowhere" in str(error)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [('"250ms"', 0.25), ('"1s"', 1.0), ('"1.5m"', 90.0), ('"24h"', 86_400.0), ('"7d"', 604_800.0), ("2", 2.0)],
)
def test_a_duration_has_a_unit_or_is_in_seconds(file: Path, written: str, seconds: float) -> None:
    file.write_text(f"[snapshot]\ninterval = {written}\n")
    assert load(file).snapshot.interval == seconds


@pytest.mark.parametrize("written", ['"1 fortnight"', '"s"', '"-1s"', "0", "-1", "inf", "nan", '""'])
def test_text_that_is_not_a_duration_is_refused(file: Path, written: str) -> None:
    assert "snapshot.interval" in str(refused(file, f"[snapshot]\ninterval = {written}\n"))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[kafka]\nbootstrap_servers = "host"', "kafka.bootstrap_servers"),
        ('[kafka]\nbootstrap_servers = "host:0"', "kafka.bootstrap_servers"),
        ('[kafka]\nbootstrap_servers = "host:65536"', "kafka.bootstrap_servers"),
        ('[kafka]\nbootstrap_servers = "a:1,,b:1"', "kafka.bootstrap_servers"),
        ('name = "a b"', "name"),
        ('name = ""', "name"),
        ('[model]\nfactory = "model"', "model.factory"),
        ('[delivery]\nguarantee = "at-most-once"', "delivery.guarantee"),
        ("[batch]\nrecords_max = 0", "batch.records_max"),
        ('[sink.http]\ntimeout = "1s"', "sink.http.url"),
        ('[sink.http]\nurl = "ftp://host"', "sink.http.url"),
        ('[topics]\npredictions = "features"', "topics"),
    ],
)
def test_a_value_that_can_not_be_is_refused_with_its_key(file: Path, text: str, key: str) -> None:
    assert key in str(refused(file, text))


@pytest.mark.parametrize("name", sorted(OWNED_SETTINGS))
def test_a_property_that_the_pipeline_owns_is_refused_by_name(file: Path, name: str) -> None:
    assert name in str(refused(file, f'[kafka.librdkafka]\n"{name}" = "x"\n'))


def test_names_with_dots_need_no_quotes(file: Path) -> None:
    file.write_text(
        'serve.stale_max = "never"\n'
        '[kafka.librdkafka]\nsecurity.protocol = "ssl"\nssl.ca.location = "ca.pem"\n"client.id" = "mine"\n'
        '[registry]\nurl = "http://host:8081"\nclient.basic.auth.user.info = "u:p"\n'
    )
    config = load(file)
    assert config.kafka.librdkafka == {"security.protocol": "ssl", "ssl.ca.location": "ca.pem", "client.id": "mine"}
    assert config.registry.client == {"basic.auth.user.info": "u:p"}
    assert config.serve.stale_max is None
    assert "set by the pipeline" in str(refused(file, "[kafka.librdkafka]\nenable.auto.commit = true\n"))


def test_a_property_of_the_store_that_has_a_key_of_its_own_names_it(file: Path) -> None:
    assert "redis.timeout" in str(refused(file, "[redis.client]\nsocket_timeout = 5\n"))


def test_any_other_property_reaches_every_client(file: Path) -> None:
    file.write_text('[kafka.librdkafka]\n"session.timeout.ms" = 9000\n"client.id" = "mine"\n')
    assert load(file).librdkafka.items() >= {"session.timeout.ms": 9000, "client.id": "mine"}.items()


@pytest.mark.parametrize("url", ["http://:pa55@host", "redis://:pa55@host:port", "redis://:pa55@host:0", "pa55"])
def test_a_bad_address_of_the_store_is_refused_without_its_password(file: Path, url: str) -> None:
    error = refused(file, f'[redis]\nurl = "{url}"\n')
    assert "redis.url" in str(error)
    assert "pa55" not in str(error) + error.hint


def test_secrets_show_neither_in_the_values_nor_in_their_words(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(
        '[redis]\nurl = "redis://:pa55@host:1/0"\n'
        '[sink.http]\nurl = "http://host"\nheaders = {authorization = "Bearer pa55"}\n'
    )
    config = load(file)
    for json in (False, True):
        config_command.show(config, file=file, flags={}, json=json)
    assert "pa55" not in repr(config) + str(config.model_dump()) + capsys.readouterr().out
    assert config.redis.url.get_secret_value() == "redis://:pa55@host:1/0"


def test_a_file_that_is_no_toml_is_refused_with_the_place(file: Path) -> None:
    error = refused(file, 'name = "x"\nkafka = 1 2')
    assert str(file) in str(error)
    assert "line 2" in str(error)


def test_a_file_that_is_no_text_is_refused(file: Path) -> None:
    file.write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match="can't be read"):
        load(file)


def test_a_missing_file_is_refused_with_the_command_that_makes_one(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert "headrace init" in caught.value.hint


def test_every_key_says_what_it_is_for() -> None:
    keys = {key: meaning for key, _, meaning in describe()}
    assert {"name", "kafka.bootstrap_servers", "schema.features", "sink.http.url", "mix.interval"} <= set(keys)
    assert [key for key, meaning in keys.items() if not meaning] == []


def test_show_tells_each_value_and_where_it_comes_from(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text('[topics]\nfeatures = "orders"\n[schema.features.amount]\nmin = 0\n')
    monkeypatch.setenv("HEADRACE__DELIVERY__GUARANTEE", "at-least-once")
    flags = {"name": "flagged"}
    config_command.show(load(file, flags=flags), file=file, flags=flags, json=False)
    lines = capsys.readouterr().out.splitlines()
    assert 'name = "flagged"  # flag' in lines
    assert 'delivery.guarantee = "at-least-once"  # environment' in lines
    assert 'topics.features = "orders"  # file' in lines
    assert "snapshot.keep = 3  # default" in lines
    assert len(lines) == len(list(describe()))


@pytest.mark.parametrize(
    ("source", "words"),
    [(None, "there is no"), ("def build(:\n", "is not valid Python"), ("\0", "is not valid Python")],
)
def test_check_refuses_a_model_that_is_missing_or_no_python(file: Path, source: str | None, words: str) -> None:
    file.write_text('[model]\nfactory = "mymodel:build"\n')
    if source is not None:
        (file.parent / "mymodel.py").write_text(source)
    with pytest.raises(ConfigError, match=words):
        config_command.find_module(load(file))


@pytest.mark.parametrize("name", ["headrace", "river"])
def test_check_refuses_a_file_that_hides_a_module_of_ours_or_of_a_library(file: Path, name: str) -> None:
    file.write_text('[model]\nfactory = "mymodel:build"\n')
    (file.parent / "mymodel.py").touch()
    (file.parent / f"{name}.py").touch()
    with pytest.raises(ConfigError, match=f"{name}.py hides a module"):
        config_command.find_module(load(file))


def test_check_takes_a_module_beside_the_file_and_does_not_run_it(file: Path) -> None:
    file.write_text('[model]\nfactory = "mymodel:build"\n')
    (file.parent / "mymodel.py").write_text("raise SystemExit")
    config_command.find_module(load(file))


@pytest.mark.parametrize(
    ("written", "protocol", "taken"),
    [
        ("PLAINTEXT://a:1", None, "a:1"),
        ("a:1, plaintext://b-1.c:2", "plaintext", "a:1,b-1.c:2"),
        ("SASL_SSL://a:1,SASL_SSL://[::1]:2", "sasl_ssl", "a:1,[::1]:2"),
        ("[fe80::1]:9092", None, "[fe80::1]:9092"),
    ],
)
def test_brokers_may_be_written_as_listeners_are(file: Path, written: str, protocol: str | None, taken: str) -> None:
    extra = f'[kafka.librdkafka]\n"security.protocol" = "{protocol}"\n' if protocol else ""
    file.write_text(f'[kafka]\nbootstrap_servers = "{written}"\n{extra}')
    assert load(file).librdkafka["bootstrap.servers"] == taken


@pytest.mark.parametrize(
    ("written", "protocol"), [("SASL_SSL://a:1", None), ("PLAINTEXT://a:1", "SSL"), ("a:1,SSL://b:1", "sasl_ssl")]
)
def test_a_listener_of_another_protocol_is_refused_and_both_are_named(
    file: Path, written: str, protocol: str | None
) -> None:
    extra = f'[kafka.librdkafka]\n"security.protocol" = "{protocol}"\n' if protocol else ""
    error = refused(file, f'[kafka]\nbootstrap_servers = "{written}"\n{extra}')
    assert "security.protocol" in str(error)
    assert (protocol or "plaintext") in str(error)


@pytest.mark.parametrize("written", ["http//a:1", "://a:1", "a b:1", "SSL://", "a:1/x", "a:99999", "[::1]"])
def test_what_is_no_address_of_a_broker_is_refused(file: Path, written: str) -> None:
    assert "kafka.bootstrap_servers" in str(refused(file, f'[kafka]\nbootstrap_servers = "{written}"\n'))


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("redis://h", True),
        ("redis://h/", True),
        ("redis://h:1/15", True),
        ("redis://h:1/0?client_name=x&health_check_interval=5", True),
        ("unix:///run/redis.sock?db=2", True),
        ("redis://h/abc", False),
        ("redis://h/-1", False),
        ("redis://h/0/1", False),
        ("redis://h/1.5", False),
        ("redis://h/٣", False),
        ("redis://h/0?db=x", False),
        ("redis://h/0?decode_responses=true", False),
        ("redis://h/0#1", False),
    ],
)
def test_the_store_s_database_is_a_number_and_its_options_are_known(file: Path, url: str, *, good: bool) -> None:
    text = f'[redis]\nurl = "{url}"\n'
    if good:
        file.write_text(text)
        assert load(file).redis.url.get_secret_value() == url
    else:
        assert "redis.url" in str(refused(file, text))


def test_a_byte_order_mark_is_taken(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(b'\xef\xbb\xbfname = "marked"\r\n')
    assert load(file).name == "marked"
    config_command.show(load(file), file=file, flags={}, json=False)
    assert 'name = "marked"  # file' in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_in_another_unicode_is_refused_by_its_name(file: Path, encoding: str) -> None:
    file.write_bytes('name = "x"\n'.encode(encoding))
    with pytest.raises(ConfigError, match="UTF-16") as caught:
        load(file)
    assert "UTF-8" in caught.value.hint


def test_an_output_that_every_pipeline_has_must_name_a_topic(file: Path) -> None:
    assert "predictions must name a topic" in str(refused(file, '[topics]\npredictions = ""\n'))
    file.write_text('[topics]\nfeatures = "orders"\ndead_letters = ""\n')
    assert load(file).topics.outputs == {"predictions": "predictions", "dead_letters": "dlq.orders"}


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_default_label_that_is_not_finite_is_refused(file: Path, number: str) -> None:
    assert f"labels.default = {number}: it must be a finite number" in str(
        refused(file, f"[labels]\ndefault = {number}\n")
    )


def _raises(_config: str) -> Any:
    raise RuntimeError("the token server is on fire")


def test_a_token_and_its_end_are_passed_on() -> None:
    faults = ConnectionFaults()
    assert _token(lambda config: (f"token of {config}", 17), faults, "me") == ("token of me", 17.0)
    assert faults.best() is None


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (_raises, "RuntimeError: the token server is on fire"),
        (lambda _: None, "TypeError: cannot unpack"),
        (lambda _: (None, 17), "TypeError: the token is a NoneType and no str"),
        (lambda _: (b"token", 17), "TypeError: the token is a bytes and no str"),
        (lambda _: ("token", "soon"), "ValueError: could not convert"),
    ],
)
def test_a_function_that_raises_or_returns_something_else_is_a_fault_of_kafka_oauth(
    function: Callable[[str], Any], told: str
) -> None:
    faults = ConnectionFaults()
    with pytest.raises(Exception, match=told.partition(": ")[2]):
        _token(function, faults, "")
    found = faults.best()
    assert found is not None
    assert found.kind == "token"
    assert f"kafka.oauth failed: {told}" in found.text
