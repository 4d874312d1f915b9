"""Brings the records of a request to the queue, whatever its protocol: first the models that they need are there."""

from collections.abc import Callable, Sequence
from functools import partial

from headrace.pipeline.serve.http.http_request import HttpRequest
from headrace.pipeline.serve.http.problem import Problem
from headrace.pipeline.serve.models.hot_models import HotModels
from headrace.pipeline.serve.models.key_models import FoundModels, KeyModels
from headrace.pipeline.serve.models.pinned_models import LoadedModels, PinnedModel, PinnedModels
from headrace.pipeline.serve.models.served_model import ServedModel
from headrace.pipeline.serve.prediction_queue import Choose, PredictionQueue, Reply, WaitingRequest
from headrace.pipeline.serve.request_body import AskedItem, AskedRecord

_KEYS_ARE_NEW = Problem("not_found", 'only the newest models of keys are kept (model.scope = "key")')


class Asking:
    """Ask for predictions. `keys` are the models of keys, None where models have none."""

    def __init__(
        self,
        queue: PredictionQueue,
        hot: HotModels,
        pinned: PinnedModels,
        keys: KeyModels | None,
        *,
        name: str,
        batch_max: int,
    ) -> None:
        self.hot = hot
        self.name = name
        self._queue = queue
        self._pinned = pinned
        self._keys = keys
        self._batch_max = batch_max

    def ask(
        self, request: HttpRequest, records: Sequence[AskedItem], reply: Reply, *, model: str = "", version: int = 0
    ) -> None:
        """Answer a request by `reply` when its records are predicted, or with a problem.

        `model` and `version` choose another model than the one that answers now.
        """
        problem: Problem | None = None
        if len(records) > self._batch_max:
            words = f"the request has {len(records)} records; serve.batch_max is {self._batch_max}"
            problem = Problem("too_large", words)
        elif version or model not in {"", self.name}:
            problem = self._ask_pinned(request, records, reply, "" if model == self.name else model, version)
        elif self._keys is not None:
            problem = self._keys.find(records, partial(self._with_keys, request, records, reply))
        else:
            self._add(request, records, reply, self.hot.choose)
        if problem is not None:
            request.refuse(problem)

    def find_version(self, version: int, then: Callable[[Problem | None], None]) -> None:
        """Call `then`, now or later, with None if a model of this version answers or is kept, or else with why not."""
        hot = self.hot.models.values()
        if any(served.version == version for served in hot):
            then(None)
            return
        if self._keys is not None:
            then(_KEYS_ARE_NEW)
            return

        def loaded(found: LoadedModels) -> None:
            problems = [one for one in found.values() if isinstance(one, Problem)]
            then(problems[0] if len(problems) == len(found) else None)

        wanted = [self._pinned.of(served, "", version) for served in hot]
        if refused := [one for one in wanted if isinstance(one, Problem)]:
            then(refused[0])
        elif problem := self._pinned.load([one for one in wanted if isinstance(one, PinnedModel)], loaded):
            then(problem)

    def _add(self, request: HttpRequest, records: Sequence[AskedItem], reply: Reply, choose: Choose) -> None:
        self._queue.add(WaitingRequest(request, records, choose=choose, reply=reply))

    def _with_keys(self, request: HttpRequest, records: Sequence[AskedItem], reply: Reply, found: FoundModels) -> None:
        assert self._keys is not None
        self._add(request, records, reply, partial(self._keys.choose, found))

    def _ask_pinned(
        self, request: HttpRequest, records: Sequence[AskedItem], reply: Reply, model: str, version: int
    ) -> Problem | None:
        if self._keys is not None:
            return _KEYS_ARE_NEW

        def choose(found: LoadedModels, record: AskedRecord) -> ServedModel | Problem:
            wanted = self._pinned.wanted(record, model, version)
            if isinstance(wanted, Problem):
                return wanted
            return found.get(wanted) or Problem("busy", "a newer version came meanwhile: ask again")

        def then(found: LoadedModels) -> None:
            self._add(request, records, reply, partial(choose, found))

        asked = [record for record in records if isinstance(record, AskedRecord)]
        wanted = [self._pinned.wanted(record, model, version) for record in asked]
        return self._pinned.load([one for one in wanted if isinstance(one, PinnedModel)], then)
