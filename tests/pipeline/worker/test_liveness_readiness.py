from pathlib import Path

import pytest
from structlog.testing import capture_logs

from headrace.pipeline.config.config import Config, load
from headrace.pipeline.worker.liveness import Readiness


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "headrace.toml"
    file.write_text('[redis]\nurl = "redis://:s3cret@h:3/0"\n[metrics]\nport = 9100\n')
    return load(file)


def test_a_worker_says_once_that_it_waits_for_records_and_where(config: Config) -> None:
    joined: list[bool] = []
    readiness = Readiness(config=config, ordinal=2, joined=lambda: bool(joined), shards={1: None, 0: None})
    with capture_logs() as logs:
        readiness.look(waiting=False)
        joined.append(True)
        readiness.look(waiting=True)
        assert logs == []
        for _ in range(3):
            readiness.look(waiting=False)
    [line] = logs
    assert line["event"] == "waiting for records"
    assert line["partitions"] == [0, 1]
    assert line["metrics"] == "http://127.0.0.1:9102/metrics"
    assert (line["kafka"], line["store"]) == ("127.0.0.1:9092", "redis://***@h:3/0")


def test_a_worker_without_partitions_says_so_and_again_when_that_changes(config: Config) -> None:
    shards: dict[int, None] = {}
    readiness = Readiness(config=config, ordinal=0, joined=lambda: True, shards=shards)
    with capture_logs() as logs:
        readiness.look(waiting=False)
        shards[0] = None
        readiness.look(waiting=False)
        shards.clear()
        readiness.look(waiting=False)
    standing_by = "standing by without a partition"
    assert [line["event"] for line in logs] == [standing_by, "waiting for records", standing_by]
