"""`POST /invocations` of MLflow and SageMaker: tables in, bare values out. One bad record refuses the request."""

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.consumers.refusal import Refusal
from headrace.pipeline.serve.asking import Asking
from headrace.pipeline.serve.http.http_request import HttpRequest
from headrace.pipeline.serve.http.problem import Problem, RecordProblem, of_refusal
from headrace.pipeline.serve.prediction_queue import Found
from headrace.pipeline.serve.predictor import Answered
from headrace.pipeline.serve.protocols.request_options import RequestOptions, options_of
from headrace.pipeline.serve.request_body import AskedItem, BodyReader, key_of

_FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")
_NOT_ONE = f"the body must be an object with exactly one of {', '.join(_FORMS)}"


class FormWrong(Exception):
    """Raised when a table has not the form that its name says."""


class Invocations:
    """Answer `/invocations`."""

    def __init__(self, asking: Asking, reader: BodyReader) -> None:
        self._asking = asking
        self._reader = reader

    def handle(self, request: HttpRequest) -> None:
        """Answer a request."""
        try:
            body = msgspec.json.decode(request.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            request.refuse(RecordProblem("not_json", f"the body is not JSON: {error}"))
            return
        forms = [form for form in _FORMS if form in body] if isinstance(body, dict) else []
        if len(forms) != 1:
            request.refuse(RecordProblem("missing_field", _NOT_ONE))
            return
        options = options_of(request.query)
        if isinstance(options, Problem):
            request.refuse(options)
            return
        try:
            rows = _rows(forms[0], body[forms[0]])
        except FormWrong as error:
            request.refuse(RecordProblem("wrong_type", str(error), forms[0]))
            return
        self._asking.ask(request, [self._record(row, options) for row in rows], _reply, model=options.model)

    def _record(self, row: dict[str, Any], options: RequestOptions) -> AskedItem:
        """Return the record of a row: its features, or an object with `features` and perhaps a `key` of its own."""
        key: bytes | Problem | None = options.key
        if isinstance(row.get("features"), dict):
            key = key_of(msgspec.json.encode(row["key"])) or key if "key" in row else key
            row = row["features"]
        return key if isinstance(key, Problem) else self._reader.row(row, key, options.partition)


def _reply(request: HttpRequest, found: Sequence[Found]) -> None:
    values = []
    for place, (outcome, _) in enumerate(found):
        if isinstance(outcome, Answered):
            values.append(outcome.prediction)
            continue
        if isinstance(outcome, Problem):
            problem = outcome
        elif isinstance(outcome, Refusal):
            problem = of_refusal(outcome)
        else:
            values.append(b"null")
            continue
        request.refuse(msgspec.structs.replace(problem, detail=f"record {place}: {problem.detail}"))
        return
    request.reply(200, b'{"predictions":[%b]}' % b",".join(values))


def _rows(form: str, table: Any) -> list[dict[str, Any]]:
    """Return a table as rows. Raises FormWrong."""
    if form == "dataframe_split":
        return _split(table)
    if form == "inputs" and isinstance(table, dict):
        return _columns(table)
    if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
        raise FormWrong(f"{form} must be a list of objects: the features have names")
    return table


def _split(table: Any) -> list[dict[str, Any]]:
    columns = table.get("columns") if isinstance(table, dict) else None
    data = table.get("data") if isinstance(table, dict) else None
    if not isinstance(columns, list) or not isinstance(data, list) or not all(isinstance(c, str) for c in columns):
        raise FormWrong("dataframe_split must be an object with `columns`, a list of names, and `data`, a list of rows")
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            raise FormWrong(f"row {number} of dataframe_split must be a list of {len(columns)} values")
    return [dict(zip(columns, row, strict=True)) for row in data]


def _columns(table: dict[str, Any]) -> list[dict[str, Any]]:
    if not any(isinstance(values, list) for values in table.values()):
        return [table]
    sizes = {len(values) if isinstance(values, list) else -1 for values in table.values()}
    if len(sizes) != 1 or -1 in sizes:
        raise FormWrong("inputs must have a list of the same length for each feature")
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
