"""The requests that wait for predictions: what came in one turn of the loop is predicted together, and nothing waits.

A turn takes a bounded number of records; then the loop reads and answers what else there is, such as probes. With more
requests waiting than `queue_max`, a new one is refused at once.
"""

import operator
from collections import deque
from collections.abc import Callable, Sequence
from http.client import SERVICE_UNAVAILABLE
from itertools import repeat
from typing import NamedTuple, Protocol

from headrace.consumers.record import Skipped
from headrace.consumers.refusal import Refusal
from headrace.pipeline.serve.http.http_request import HttpRequest
from headrace.pipeline.serve.http.problem import Problem, of_refusal
from headrace.pipeline.serve.models.served_model import ServedModel
from headrace.pipeline.serve.predictor import Answered, PredictionOutcome, Predictor
from headrace.pipeline.serve.request_body import AskedItem, AskedRecord, AskedRows

_ROWS_A_TURN = 4_096

Found = tuple[PredictionOutcome | Problem, ServedModel | None]
"""The outcome of one record, and the model that was asked."""
Choose = Callable[[AskedRecord], ServedModel | Problem]


class Reply(Protocol):
    """Writes the outcomes of a request as its protocol has them."""

    def __call__(self, request: HttpRequest, found: Sequence[Found]) -> None:
        """Answer the request."""


class WaitingRequest:
    """A request, its records, how each finds its model, and how it is answered."""

    __slots__ = ("choose", "records", "reply", "request")

    def __init__(self, request: HttpRequest, records: Sequence[AskedItem], *, choose: Choose, reply: Reply) -> None:
        self.request = request
        self.records = records
        self.choose = choose
        self.reply = reply


class _ModelBatch(NamedTuple):
    """The records that one model predicts, and where their outcomes are put: a number of them from a place on."""

    served: ServedModel
    values: list[bytes]
    keys: list[bytes | None]
    places: list[tuple[list[Found], int, int]]


class PredictionQueue:
    """Predict the records of waiting requests. `soon` calls a function in the next turn of the loop.

    `note` is told of each batch: the number of records, and the model.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        queue_max: int,
        soon: Callable[[Callable[[], None]], object],
        note: Callable[[int, ServedModel], None],
    ) -> None:
        self._predictor = predictor
        self._queue_max = queue_max
        self._soon = soon
        self._note = note
        self._waiting: deque[WaitingRequest] = deque()
        self._is_called = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiting: WaitingRequest) -> None:
        """Let a request wait for its predictions, or refuse it."""
        if len(self._waiting) >= self._queue_max:
            words = f"{self._queue_max} requests wait already (serve.queue_max)"
            waiting.request.refuse(Problem("busy", words))
            return
        self._waiting.append(waiting)
        self._call()

    def _call(self) -> None:
        if not self._is_called:
            self._is_called = True
            self._soon(self._turn)

    def _turn(self) -> None:
        """Answer the requests that wait, in their order, up to a number of records."""
        self._is_called = False
        turn: list[WaitingRequest] = []
        rows = 0
        while self._waiting and rows < _ROWS_A_TURN:
            waiting = self._waiting.popleft()
            rows += len(waiting.records)
            turn.append(waiting)
        if self._waiting:
            self._call()
        try:
            answers = self._predict(turn)
        except Exception as error:
            for waiting in turn:
                waiting.request.refuse(Problem("failed", f"{type(error).__name__}: {error}"))
            raise
        for waiting, found in zip(turn, answers, strict=True):
            waiting.reply(waiting.request, found)

    def _predict(self, turn: Sequence[WaitingRequest]) -> list[list[Found]]:
        """Return the outcomes of each request's records; all records of one model are predicted together."""
        if len(turn) == 1 and len(turn[0].records) == 1:
            return [[self._single(turn[0], turn[0].records[0])]]
        found: list[list[Found]] = []
        batches: dict[int, _ModelBatch] = {}
        for waiting in turn:
            outcomes = [_NONE] * len(waiting.records)
            found.append(outcomes)
            if type(waiting.records) is AskedRows:
                self._sort_rows(waiting, waiting.records, outcomes, batches)
            else:
                self._sort(waiting, outcomes, batches)
        for served, values, keys, places in batches.values():
            self._note(len(values), served)
            results = self._predictor.predict(served, values, keys)
            begin = 0
            for outcomes, place, count in places:
                if count == 1:
                    outcomes[place] = results[begin], served
                else:
                    outcomes[place : place + count] = zip(results[begin : begin + count], repeat(served))
                begin += count
        return found

    def _single(self, waiting: WaitingRequest, record: AskedItem) -> Found:
        """Return the outcome of the only record of a turn, which is the usual one while the server has time."""
        if not isinstance(record, AskedRecord):
            return record, None
        served = waiting.choose(record)
        if isinstance(served, Problem):
            return served, None
        self._note(1, served)
        return self._predictor.predict(served, (record.value,), (record.key,))[0], served

    def _sort(self, waiting: WaitingRequest, outcomes: list[Found], batches: dict[int, _ModelBatch]) -> None:
        """Add the records of a request to the batches of their models."""
        last: AskedRecord | None = None
        batch: _ModelBatch | Problem
        for place, record in enumerate(waiting.records):
            if type(record) is not AskedRecord:
                assert isinstance(record, Problem)
                outcomes[place] = record, None
                continue
            # Mostly all records of a request have the same key, or none.
            if last is None or record.key is not last.key or record.partition != last.partition:
                batch = _batch_of(waiting.choose(record), batches)
            last = record
            if type(batch) is not _ModelBatch:
                assert isinstance(batch, Problem)
                outcomes[place] = batch, None
                continue
            batch.values.append(record.value)
            batch.keys.append(record.key)
            batch.places.append((outcomes, place, 1))

    def _sort_rows(
        self, waiting: WaitingRequest, rows: AskedRows, outcomes: list[Found], batches: dict[int, _ModelBatch]
    ) -> None:
        if not rows:
            return
        count, first = len(rows), rows[0]
        batch = _batch_of(waiting.choose(first), batches)
        if isinstance(batch, Problem):
            outcomes[:] = [(batch, None)] * count
            return
        batch.values.extend(rows.values)
        batch.keys.extend([first.key] * count)
        batch.places.append((outcomes, 0, count))


def _batch_of(chosen: ServedModel | Problem, batches: dict[int, _ModelBatch]) -> _ModelBatch | Problem:
    if isinstance(chosen, Problem):
        return chosen
    batch = batches.get(id(chosen))
    if batch is None:
        batch = batches[id(chosen)] = _ModelBatch(chosen, [], [], [])
    return batch


_NONE: Found = (Skipped(), None)


class NativeReply:
    """Answers of `/predict`: one object, or `predictions` with an object for each record."""

    def __init__(self, *, clock: Callable[[], float], freshness_s: float) -> None:
        self._clock = clock
        self._freshness_s = freshness_s

    def one(self, request: HttpRequest, found: Sequence[Found]) -> None:
        """Answer a request that had one record."""
        outcome, served = found[0]
        if type(outcome) is Answered:
            assert served is not None
            request.reply(200, _line(outcome, served.encode(self._clock(), self._freshness_s)))
        elif isinstance(outcome, Problem):
            request.refuse(outcome)
        elif isinstance(outcome, Refusal):
            request.refuse(of_refusal(outcome))
        else:
            request.reply(200, _SKIPPED)

    def many(self, request: HttpRequest, found: Sequence[Found]) -> None:
        """Answer a request that had a list of records; one that no model can answer now is refused as a whole."""
        first = found[0][0] if found else None
        if isinstance(first, Problem) and all(
            isinstance(outcome, Problem) and outcome.status == first.status == SERVICE_UNAVAILABLE
            for outcome, _ in found
        ):
            request.refuse(first)
            return
        now_s = self._clock()
        if (lines := self._alike(found, now_s)) is None:
            lines = self._each(found, now_s)
        request.reply(200, b'{"predictions":[%b]}' % b",".join(lines))

    def _alike(self, found: Sequence[Found], now_s: float) -> list[bytes] | None:
        """Return the answers of one model that all have probabilities; None for others."""
        outcomes, models = zip(*found, strict=True) if found else ((), ())
        if set(map(type, outcomes)) != {Answered} or len(set(map(id, models))) != 1:
            return None
        if not all(map(_PROBA, outcomes)) or any(map(_SCORE, outcomes)):
            return None
        model = models[0].encode(now_s, self._freshness_s).replace(b"%", b"%%")
        return list(map((b'{"id":%%b,"prediction":%%b,"proba":%%b%%b,"model":%b}' % model).__mod__, outcomes))

    def _each(self, found: Sequence[Found], now_s: float) -> list[bytes]:
        lines = []
        last: ServedModel | None = None
        model = b""
        for outcome, served in found:
            if type(outcome) is Answered:
                if served is not last:
                    assert served is not None
                    last, model = served, served.encode(now_s, self._freshness_s)
                lines.append(_line(outcome, model))
            elif isinstance(outcome, Problem):
                lines.append(outcome.item())
            elif isinstance(outcome, Refusal):
                lines.append(of_refusal(outcome).item())
            else:
                lines.append(_SKIPPED)
        return lines


_PROBA, _SCORE = operator.attrgetter("proba"), operator.attrgetter("score")
_SKIPPED = b'{"skipped":true}'


def _line(answer: Answered, model: bytes) -> bytes:
    if answer.proba:
        return b'{"id":%b,"prediction":%b,"proba":%b,"model":%b}' % (answer.id, answer.prediction, answer.proba, model)
    if answer.score:
        return b'{"id":%b,"prediction":%b,"score":%b,"model":%b}' % (answer.id, answer.prediction, answer.score, model)
    return b'{"id":%b,"prediction":%b,"model":%b}' % (answer.id, answer.prediction, model)
