"""headrace.toml as `init --from` writes it: given values are set, with any name and any text."""

import tomllib
from pathlib import Path

import pytest

from headrace.pipeline.config.config import load
from headrace.pipeline.config.template import configuration

VALUES = {
    "topics.features": "orders",
    "kafka.librdkafka": {"security.protocol": "SASL_SSL", "sasl.password": "${env:HEADRACE_TEST_PASSWORD}"},
    "schema.features": {
        "amount": {"type": "number"},
        "card.limit": {"type": "number", "required": False},
        'odd "name" \\ ø \x7f\n': {"type": "string", "values": ["a", "b"]},
    },
    "registry.client": {"timeout": 2, "basic.auth.user.info": "a:b"},
    "snapshot.interval": 2.0,
}


def test_given_values_are_set_and_the_file_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_TEST_PASSWORD", "secret")
    file = tmp_path / "headrace.toml"
    file.write_text(configuration("fraud", VALUES))
    config = load(file)
    assert (config.name, config.topics.features, config.snapshot.interval) == ("fraud", "orders", 2.0)
    assert config.kafka.librdkafka == {"security.protocol": "SASL_SSL", "sasl.password": "secret"}
    assert config.registry.client == {"timeout": 2, "basic.auth.user.info": "a:b"}
    assert set(config.schema_.features) == set(VALUES["schema.features"])
    assert not config.schema_.features["card.limit"].required


def test_what_is_not_given_stays_a_comment_or_at_its_default() -> None:
    tree = tomllib.loads(configuration("fraud", VALUES))
    assert set(tree["snapshot"]) == {"interval"}
    assert "batch" not in tree
    assert tomllib.loads(configuration("fraud"))["topics"]["features"] == "features"
