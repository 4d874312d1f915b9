"""Looks up the schemas of records before they are learned; records whose schema is not known yet wait.

A batch ends before the first record whose schema is not known. That log alone pauses, and its client goes back to that
record; all others go on. A thread asks the store for the schema, then the registry, and keeps what it finds in both
memory and store, since an id never changes its schema. Records whose id the registry does not have are refused. A later
relearning must refuse the same ones, so their offsets are kept in the store before the batch is learned.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import structlog

from headrace.consumers.formats.framing import PREFIX_BYTES, schema_of
from headrace.consumers.formats.registry import Registry
from headrace.consumers.formats.schema_cache import ParsedSchema, SchemaCache
from headrace.consumers.formats.writer_schema import WriterSchema
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.source import PartitionLog, Source, SourceAway
from headrace.pipeline.process.background import BackgroundCall
from headrace.pipeline.worker.breakers import Breakers
from headrace.state.store.schema_store import SchemaStore

log = structlog.get_logger("headrace")

REASON = "registry"
"""The first word of the reason for which partitions pause here."""

# How long the loop waits for a new schema before it pauses the log: a healthy registry answers in milliseconds.
_ANSWER_S = 0.5
# After this time the registry is asked again for an id that it did not know.
_ABSENT_S = 1.0
_WANTED_MAX = 100
_ABSENT_MAX = 10_000


class _Waiting(NamedTuple):
    """The record for which a log waits: its offset, and the id of its schema."""

    offset: int
    schema: str


class SchemaWait:
    """Look up schemas for the logs of a worker. `connect` makes the client of the registry when it is first needed.

    `framed` tells of the features (False) and of the labels (True) whether their values name schemas.
    """

    def __init__(
        self,
        cache: SchemaCache,
        *,
        framed: Mapping[bool, bool],
        connect: Callable[[], Registry],
        store: SchemaStore,
        source: Source,
        breakers: Breakers,
        clock: Callable[[], float],
    ) -> None:
        self._cache = cache
        self._framed = framed
        self._connect = connect
        self._store = store
        self._source = source
        self._breakers = breakers
        self._clock = clock
        self._registry: Registry | None = None
        self._call = BackgroundCall("schemas")
        self._found: list[tuple[str, ParsedSchema | None]] = []
        self._absent: dict[str, float] = {}
        self._asked: set[str] = set()
        self._unknown: dict[int, dict[str, int]] = {}
        self._waiting: dict[PartitionLog, _Waiting] = {}

    @property
    def partitions(self) -> set[int]:
        """The partitions that wait for a schema."""
        return {partition for _, partition in self._waiting}

    @property
    def reason(self) -> str:
        """Why partitions wait; empty if none does."""
        if not self._waiting:
            return ""
        schemas = sorted({waiting.schema for waiting in self._waiting.values()})
        away = self._breakers.gate.breakers["registry"].reason
        words = f"partitions {sorted(self.partitions)} wait for schema {', '.join(schemas[:3])}"
        return f"{REASON}: {words}" + (f": {away}" if away else "")

    def cut(self, log_: PartitionLog, batch: RecordBatch) -> RecordBatch:
        """Return the records of a batch that can be read now; the log pauses before the first other one.

        Raises StoreAway.
        """
        if not self._framed[log_[0]]:
            return batch
        if log_ in self._waiting:
            # It is paused, and these records come again.
            return RecordBatch(log_[1], offsets=(), timestamps=(), keys=[], values=[])
        unknown = self._load_unknown(log_[1])
        if not self._new(batch):
            return batch
        wanted = list(self._wanted(log_, batch))
        self._look_up([schema for _, schema in wanted])
        refused: dict[str, int] = {}
        end = len(batch)
        for position, schema in wanted:
            if schema in self._cache.known:
                continue
            if not self._is_absent(schema):
                end = position
                break
            refused[f"{log_[0]:d}:{schema}"] = batch.offsets[position] + 1
        if refused:
            self._store.keep_unknown(log_[1], refused)
            unknown.update(refused)
            self._tell(log_[1])
        if end < len(batch):
            self._pause(log_, _Waiting(batch.offsets[end], next(s for at, s in wanted if at == end)))
        return batch.first(end)

    def forget(self, partition: int) -> None:
        """Forget a partition that another worker has now, or that is taken over or read again."""
        for labels in (False, True):
            self._waiting.pop((labels, partition), None)
        self._unknown.pop(partition, None)
        self._cache.forget(partition)

    def go_on(self) -> None:
        """Take what was found, ask for what is missing, and read on the logs that have all they waited for.

        Raises RegistryRefused, ExtraMissing.
        """
        self._take()
        if not self._waiting:
            return
        missing = [one.schema for one in self._waiting.values() if not self._is_answered(one.schema)]
        # A schema that was never asked for may be in the store, though the registry is away.
        if missing and (self._breakers.allow("registry") or not self._asked.issuperset(missing)):
            self._start(missing)
        for log_, waiting in list(self._waiting.items()):
            if self._is_answered(waiting.schema):
                with contextlib.suppress(SourceAway):
                    self._source.read_log_from(log_[1], waiting.offset, labels=log_[0])
                    del self._waiting[log_]
                    log.info("resumed", partition=log_[1], reason=f"{REASON}: the schema is known")

    def _load_unknown(self, partition: int) -> dict[str, int]:
        if partition not in self._unknown:
            self._unknown[partition] = self._store.unknown(partition)
            self._tell(partition)
        return self._unknown[partition]

    def _tell(self, partition: int) -> None:
        """Tell the cache below which offsets records are refused."""
        for labels in (False, True):
            mark = f"{labels:d}:"
            offsets = {n.removeprefix(mark): u for n, u in self._unknown[partition].items() if n.startswith(mark)}
            if offsets:
                self._cache.refuse_below((labels, partition), offsets)

    def _new(self, batch: RecordBatch) -> bool:
        """Tell whether a batch may have a schema that is not known."""
        if batch.headers is not None:
            return True
        prefixes = {value[:PREFIX_BYTES] for value in batch.values if value}
        return any(schema_of(prefix, None) not in self._cache.known for prefix in prefixes)

    def _wanted(self, log_: PartitionLog, batch: RecordBatch) -> Iterator[tuple[int, str]]:
        """Yield the positions and schemas of records that can't be decoded yet, and were not refused before."""
        unknown = self._unknown[log_[1]]
        headers: Sequence[object] = batch.headers or [None] * len(batch)
        for position, (offset, value, head) in enumerate(zip(batch.offsets, batch.values, headers, strict=True)):
            schema = schema_of(value, head)  # type: ignore[arg-type]
            if schema is None or schema in self._cache.known or not value:
                continue
            if offset >= unknown.get(f"{log_[0]:d}:{schema}", 0):
                yield position, schema

    def _look_up(self, schemas: Sequence[str]) -> None:
        """Ask for schemas, and wait a moment for the answer while the registry works."""
        self._take()
        missing = [schema for schema in dict.fromkeys(schemas) if not self._is_answered(schema)]
        if missing and (self._breakers.allow("registry") or not self._asked.issuperset(missing)):
            self._start(missing)
            if not self._breakers.gate.breakers["registry"].tripped and self._call.wait(_ANSWER_S):
                self._take()

    def _start(self, schemas: Sequence[str]) -> None:
        if not self._call.running:
            wanted = schemas[:_WANTED_MAX]
            self._asked.update(wanted)
            self._call.start(lambda: self._fetch(wanted))

    def _fetch(self, schemas: Sequence[str]) -> None:
        """Find schemas in the store, or else in the registry; runs in the thread."""
        stored = self._store.find(schemas)
        for schema in schemas:
            found = WriterSchema.unpack(stored[schema]) if schema in stored else None
            if found is None:
                if self._registry is None:
                    self._registry = self._connect()
                found = self._registry.find(schema)
                if found is not None:
                    self._store.keep(schema, found.pack())
            self._found.append((schema, None if found is None else self._cache.parse(schema, found)))

    def _take(self) -> None:
        if not self._call.ended:
            return
        self._breakers.run("registry", self._call.result)
        for schema, parsed in self._found:
            self._asked.discard(schema)
            if parsed is None:
                if len(self._absent) >= _ABSENT_MAX:
                    self._absent.clear()
                self._absent[schema] = self._clock()
            else:
                self._cache.known[schema] = parsed
        self._found.clear()

    def _is_answered(self, schema: str) -> bool:
        return schema in self._cache.known or self._is_absent(schema)

    def _is_absent(self, schema: str) -> bool:
        """Tell whether the registry has just said that it has no such schema."""
        asked_at = self._absent.get(schema)
        if asked_at is not None and self._clock() - asked_at > _ABSENT_S:
            del self._absent[schema]
            return False
        return asked_at is not None

    def _pause(self, log_: PartitionLog, waiting: _Waiting) -> None:
        self._waiting[log_] = waiting
        self._source.pause_log(log_[1], labels=log_[0])
        log.warning("paused", partition=log_[1], offset=waiting.offset, reason=self.reason)
