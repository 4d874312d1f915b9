"""The engine without a server: hosted by a script on a file, and imported without the clients of any."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from river import linear_model, preprocessing

ROOT = Path(__file__).parents[3]
LOGISTIC = """
from river import linear_model, preprocessing

def build():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()
"""
FOREST = """
from river import forest

def build():
    return forest.ARFClassifier(seed=1)
"""


def _host(folder: Path, model: str, lines: list[bytes]) -> tuple[list[dict[str, object]], str]:
    (folder / "model.py").write_text(model)
    words = [sys.executable, str(ROOT / "deploy" / "predict_file.py"), str(folder)]
    done = subprocess.run(words, input=b"\n".join(lines), capture_output=True, check=True, timeout=200)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def test_a_script_of_a_few_lines_hosts_the_engine_on_a_file(tmp_path: Path) -> None:
    rows = [({"a": index % 7 - 3, "b": index / 10}, index % 3 == 0) for index in range(200)]
    lines = [json.dumps({"features": features, "label": label}).encode() for features, label in rows]
    lines[5] = b"{"
    answers, errors = _host(tmp_path, LOGISTIC, lines)
    river = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    expected = []
    for place, (features, label) in enumerate(rows):
        if place != 5:
            expected.append((f"file-0-{place}", river.predict_proba_one(features)[True]))
            river.learn_one(features, label)
    assert [(answer["id"], answer["proba"]["true"]) for answer in answers] == expected  # type: ignore[index]
    assert errors == "line 6: the value is not JSON: it breaks off after 1 characters\n"


def test_a_model_that_no_compiler_knows_goes_the_same_way(tmp_path: Path) -> None:
    lines = [b'{"features": {"a": %d}, "label": %d}' % (index, index % 2) for index in range(20)]
    answers, errors = _host(tmp_path, FOREST, lines)
    assert (len(answers), errors) == (20, "")


@pytest.mark.parametrize(
    "module",
    [
        "headrace.pipeline.engine.engine",
        "headrace.pipeline.engine.columnar",
        "headrace.consumers.record",
        "headrace.consumers.record_batch",
        "headrace.consumers.fastjson.scan",
        "headrace.producers.output",
        "headrace.producers.prediction",
        "headrace.producers.fastjson.encoder",
    ],
)
def test_the_engine_its_decoders_and_its_encoders_bring_no_client(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'confluent_kafka', 'redis', 'urllib3'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=100)
    assert done.stdout == "[]\n"
