"""The models that answer now, and which of them answers a record: of the partition of its key, or of all workers.

Only the thread of the server's loop uses this; the poller hands it what it has loaded.
"""

import functools
import zlib
from collections.abc import Callable, Mapping

from headrace.consumers.partitioner import murmur2
from headrace.pipeline.serve.http.problem import Problem, RecordProblem
from headrace.pipeline.serve.models.served_model import ServedModel
from headrace.pipeline.serve.request_body import AskedRecord

_KEYS_MAX = 65_536
_HASHES: Mapping[str, Callable[[bytes], int]] = {"murmur2": murmur2, "crc32": zlib.crc32}
ALL = -1
"""The partition under which a model of all workers is kept."""


class HotModels:
    """The newest model of each partition. `clock` gives seconds that never jump; `stale_max_s` is None for never."""

    def __init__(self, *, clock: Callable[[], float], partitioner: str, stale_max_s: float | None) -> None:
        self.clock = clock
        self.models: dict[int, ServedModel] = {}
        self.reason = ""
        """Why there is no model, or no newer one."""
        self._stale_max_s = stale_max_s
        self._hash = functools.lru_cache(_KEYS_MAX)(_HASHES[partitioner])
        self._partitions = 0
        self._most: ServedModel | None = None

    def know(self, partitions: int) -> None:
        """Note the number of partitions of the topic."""
        self._partitions = partitions

    def put(self, served: ServedModel) -> ServedModel | None:
        """Let a model answer for its partition from now on; return the one before it."""
        before = self.models.get(served.partition)
        self.models[served.partition] = served
        self._most = max(self.models.values(), key=lambda one: (one.learned, -one.partition))
        return before

    def confirm(self, partitions: Mapping[int, int], at_s: float) -> None:
        """Note that the store said at a time that these versions, by partition, are the newest."""
        for partition, version in partitions.items():
            served = self.models.get(partition)
            if served is not None and served.version == version:
                served.confirm(at_s)

    def choose(self, record: AskedRecord) -> ServedModel | Problem:
        """Return the model that answers a record, or why none does."""
        served = self._find(record)
        return served if isinstance(served, Problem) else self.refuse_stale(served) or served

    def refuse_stale(self, served: ServedModel) -> Problem | None:
        """Return why a model is too old to answer; None if it is not."""
        if self._stale_max_s is None or (age_s := served.age_s(self.clock())) <= self._stale_max_s:
            return None
        return Problem("stale", f"the model is {age_s:.1f} s old; serve.stale_max is {self._stale_max_s:g} s")

    def partition_of(self, record: AskedRecord) -> int | Problem:
        """Return the partition that a record with a key or a partition belongs to."""
        if not self._partitions:
            return self._missing("")
        if record.partition >= self._partitions:
            words = f"there is no partition {record.partition}; the topic has {self._partitions}"
            return RecordProblem("out_of_range", words, "partition")
        return record.partition if record.partition >= 0 else self._hash(record.key or b"") % self._partitions

    def _find(self, record: AskedRecord) -> ServedModel | Problem:
        if (shared := self.models.get(ALL)) is not None:
            return shared
        if record.key is None and record.partition < 0:
            return self._most or self._missing("")
        partition = self.partition_of(record)
        if isinstance(partition, Problem):
            return partition
        return self.models.get(partition) or self._missing(f" of partition {partition}")

    def _missing(self, which: str) -> Problem:
        why = f": {self.reason}" if self.reason else ""
        return Problem("no_model", f"this server has no model{which} yet{why}")
