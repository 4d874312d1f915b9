"""The Open Inference Protocol, which Triton, KServe and Seldon speak: `/v2` and what is below it.

A tensor is a feature, with a value for each record. The outputs are `prediction`, and `proba` with a column a class.
"""

import importlib.metadata
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from headrace.consumers.refusal import Refusal
from headrace.pipeline.serve.asking import Asking
from headrace.pipeline.serve.http.http_request import JSON, HttpRequest
from headrace.pipeline.serve.http.problem import Problem, RecordProblem, of_refusal
from headrace.pipeline.serve.prediction_queue import Found
from headrace.pipeline.serve.predictor import Answered
from headrace.pipeline.serve.protocols.tensors import (
    InputTensor,
    TensorInvalid,
    TensorParameters,
    TooManyRecords,
    datatype_of,
    read_columns,
    write_bytes,
)
from headrace.pipeline.serve.request_body import BodyReader

_PREFIX = b"/v2/models/"
_LENGTH = b"inference-header-content-length"
# Of the answers of each task; labels of other classifiers may be of any type.
_DATATYPES = {"regression": "FP64", "binary": "BOOL"}


class _WantedOutput(msgspec.Struct):
    name: str
    parameters: TensorParameters = msgspec.field(default_factory=TensorParameters)


class _InferParameters(msgspec.Struct):
    binary_data_output: bool = False
    key: str | None = None


class _InferRequest(msgspec.Struct):
    inputs: list[InputTensor]
    id: str = ""
    outputs: list[_WantedOutput] | None = None
    parameters: _InferParameters = msgspec.field(default_factory=_InferParameters)


class _Target(NamedTuple):
    """The model and version in a path, and what is asked of it."""

    name: str
    version: int
    action: str


class OpenInference:
    """Answer `/v2`."""

    def __init__(self, asking: Asking, reader: BodyReader, *, batch_max: int) -> None:
        self._asking = asking
        self._reader = reader
        self._batch_max = batch_max

    def server(self, request: HttpRequest) -> None:
        """Answer `/v2`: what server this is."""
        version = importlib.metadata.version("headrace")
        told = {"name": "headrace", "version": version, "extensions": ["binary_tensor_data"]}
        request.reply(200, msgspec.json.encode(told))

    def handle(self, request: HttpRequest) -> None:
        """Answer a path below `/v2/models/`."""
        target = _target(request.path)
        if target is None:
            request.refuse(Problem("not_found", f"there is nothing at {request.path.decode(errors='replace')[:200]}"))
            return
        wanted = b"POST" if target.action == "infer" else b"GET"
        if request.method not in {wanted, b"HEAD" if wanted == b"GET" else wanted}:
            request.refuse(Problem("not_allowed", f"this path takes {wanted.decode()}", allow=wanted.decode()))
        elif target.action == "infer":
            request.route = "infer"
            self._infer(request, target)
        elif target.name != self._asking.name:
            request.refuse(Problem("not_found", f"there is no model {target.name!r}"))
        elif not self._asking.hot.models:
            request.refuse(Problem("no_model", self._asking.hot.reason or "no model is loaded yet"))
        elif target.version:
            self._asking.find_version(target.version, partial(self._tell, request, target))
        else:
            self._tell(request, target, None)

    def _tell(self, request: HttpRequest, target: _Target, problem: Problem | None) -> None:
        """Answer that a model is ready, or what it is; or with a problem."""
        if problem is not None:
            request.refuse(problem)
        elif target.action == "ready":
            request.reply(200, b'{"ready":true}')
        else:
            request.reply(200, msgspec.json.encode(self._metadata()))

    def _metadata(self) -> dict[str, Any]:
        models = self._asking.hot.models.values()
        model = next(iter(models)).model
        outputs = [{"name": "prediction", "datatype": _DATATYPES.get(model.task, "BYTES"), "shape": [-1]}]
        if model.has_proba:
            outputs.append({"name": "proba", "datatype": "FP64", "shape": [-1, -1]})
        return {
            "name": self._asking.name,
            "versions": sorted({str(served.version) for served in models}),
            "platform": "headrace_river",
            # A River model has no fixed list of features.
            "inputs": [],
            "outputs": outputs,
        }

    def _infer(self, request: HttpRequest, target: _Target) -> None:
        body, binary = request.body, b""
        if (length := request.headers.get(_LENGTH)) is not None:
            if not length.isdigit() or len(length) > 12 or int(length) > len(body):  # noqa: PLR2004 more than any body has
                request.refuse(Problem("bad_request", "Inference-Header-Content-Length is not within the body"))
                return
            body, binary = body[: int(length)], body[int(length) :]
        try:
            asked = msgspec.json.decode(body, type=_InferRequest)
            columns = read_columns(asked.inputs, binary, records_max=self._batch_max)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            request.refuse(RecordProblem("wrong_type", f"the body is no inference request: {error}"))
            return
        except TooManyRecords as error:
            request.refuse(Problem("too_large", str(error)))
            return
        except TensorInvalid as error:
            request.refuse(RecordProblem("wrong_type", str(error), "inputs"))
            return
        key = None if asked.parameters.key is None else asked.parameters.key.encode()
        rows = zip(*columns.values(), strict=True)
        records = [self._reader.row(dict(zip(columns, row, strict=True)), key) for row in rows]
        self._asking.ask(request, records, partial(_reply, asked, target), model=target.name, version=target.version)


def _target(path: bytes) -> _Target | None:
    if not path.startswith(_PREFIX):
        return None
    name, *rest = path[len(_PREFIX) :].decode(errors="replace").split("/")
    version = 0
    if len(rest) > 1 and rest[0] == "versions":
        if not rest[1].isascii() or not rest[1].isdigit() or len(rest[1]) > 12:  # noqa: PLR2004 far above any version
            return None
        version, rest = int(rest[1]), rest[2:]
    action = rest[0] if rest else ""
    return _Target(name, version, action) if len(rest) <= 1 and action in {"", "ready", "infer"} and name else None


def _reply(asked: _InferRequest, target: _Target, request: HttpRequest, found: Sequence[Found]) -> None:
    """Answer with tensors; one bad record refuses the request."""
    answers: list[tuple[Any, dict[str, Any]]] = []
    versions: set[int] = set()
    for place, (outcome, served) in enumerate(found):
        if isinstance(outcome, Answered):
            assert served is not None
            versions.add(served.version)
            proba = msgspec.json.decode(outcome.proba) if outcome.proba else {}
            answers.append((msgspec.json.decode(outcome.prediction), proba))
            continue
        problem: Problem = RecordProblem("missing_field", "it has no features")
        if isinstance(outcome, Problem):
            problem = outcome
        elif isinstance(outcome, Refusal):
            problem = of_refusal(outcome)
        request.refuse(msgspec.structs.replace(problem, detail=f"record {place}: {problem.detail}"))
        return
    outputs, binary = _outputs(asked, answers)
    told = {
        "model_name": target.name,
        "model_version": str(max(versions, default=target.version)),
        "id": asked.id,
        "outputs": outputs,
    }
    body = msgspec.json.encode(told)
    if not binary:
        request.reply(200, body, content_type=JSON)
        return
    head = b"inference-header-content-length: %d\r\n" % len(body)
    request.reply(200, body + binary, content_type=b"application/octet-stream", headers=head)


def _outputs(asked: _InferRequest, answers: Sequence[tuple[Any, dict[str, Any]]]) -> tuple[list[dict[str, Any]], bytes]:
    """Return the outputs that are asked for, and the bytes of those that are wanted as bytes."""
    labels = list(dict.fromkeys(label for _, proba in answers for label in proba))
    predictions = [prediction for prediction, _ in answers]
    count = len(answers)
    made: dict[str, tuple[list[int], str, list[Any], dict[str, Any]]] = {
        "prediction": ([count], datatype_of(predictions), predictions, {}),
    }
    if labels:
        flat = [proba.get(label, 0.0) for _, proba in answers for label in labels]
        made["proba"] = ([count, len(labels)], "FP64", flat, {"labels": labels})
    wanted = dict.fromkeys(made, asked.parameters.binary_data_output)
    if asked.outputs is not None:
        wanted = {
            one.name: asked.parameters.binary_data_output if (chosen := one.parameters.binary_data) is None else chosen
            for one in asked.outputs
            if one.name in made
        }
    outputs, parts = [], []
    for name, is_binary in wanted.items():
        shape, datatype, values, parameters = made[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if is_binary:
            data = write_bytes(values, datatype)
            parts.append(data)
            output["parameters"] = {**parameters, "binary_data_size": len(data)}
        else:
            output["data"] = values
            if parameters:
                output["parameters"] = parameters
        outputs.append(output)
    return outputs, b"".join(parts)
