"""What an operator does, on a real Kafka and Valkey: start a project, look at it, stop it, find what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness import nursery
from nursery import Forked

from headrace.consumers.topics import Topics
from headrace.pipeline.commands import init
from headrace.pipeline.commands.doctor import CheckResult, doctor, examine
from headrace.pipeline.config.config import load
from headrace.pipeline.embedded import Stack
from headrace.state.store.roster import Roster
from headrace.state.store.store import Store

# On one process of the test run: its servers, and the project that was learned, are made once.
pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("operate")]

BOUND_S = 60.0
WORKER = """
import sys
from headrace.pipeline.worker.worker import Job, main

main(Job(sys.argv[1], {}, until_end=False, on_loss="relearn"), lambda: None)
"""


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    """Servers of this module's own: some of its tests freeze them."""
    with Stack() as running:
        assert running.addresses.kind == "kafka", "these tests prove nothing on a mock"
        yield running


@dataclass
class Project:
    """A project that `headrace init` made, with topics of its own."""

    servers: Stack
    directory: Path
    name: str = field(default_factory=lambda: f"o{uuid.uuid4().hex[:8]}")

    @property
    def settings(self) -> dict[str, str]:
        return {
            "HEADRACE__NAME": self.name,
            "HEADRACE__KAFKA__BOOTSTRAP_SERVERS": self.servers.addresses.kafka,
            "HEADRACE__REDIS__URL": self.servers.addresses.redis,
            "HEADRACE__TOPICS__FEATURES": f"{self.name}.in",
            "HEADRACE__TOPICS__PREDICTIONS": f"{self.name}.out",
            "HEADRACE__TOPICS__DEAD_LETTERS": f"{self.name}.dead",
        }

    def start(self, *words: str, **options: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "headrace", *words],
            env={**os.environ, **self.settings},
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def call(self, *words: str, code: int = 0, **env: str) -> str:
        done = nursery().call(words, env={**os.environ, **self.settings, **env}, cwd=self.directory)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr[-2_000:])
        assert "Traceback" not in done.stderr
        return done.stderr if code and not done.stdout else done.stdout

    def status(self, **env: str) -> dict[str, Any]:
        return json.loads(self.call("status", "--json", **env))

    def wait_for(self, state: str, **env: str) -> dict[str, Any]:
        def told() -> dict[str, Any] | None:
            status = self.status(**env)
            return status if status["state"] == state else None

        return await_true(told, what=f"{self.name} to be {state}")

    @contextmanager
    def running(self) -> Iterator[Forked]:
        log = (self.directory / "run.log").open("ab")
        env = {**os.environ, **self.settings}
        process = nursery().start(["run"], env=env, cwd=self.directory, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(BOUND_S) == 0, (self.directory / "run.log").read_text()[-2_000:]
            log.close()


def await_true(condition: Callable[[], Any], *, what: str) -> Any:
    until = time.monotonic() + BOUND_S
    while not (answer := condition()):
        assert time.monotonic() < until, f"waited {BOUND_S:.0f} s for {what}"
        time.sleep(0.05)
    return answer


@pytest.fixture
def project(servers: Stack, tmp_path: Path) -> Project:
    init.init(tmp_path / "project")
    return Project(servers, tmp_path / "project")


@pytest.fixture(scope="module")
def learned(servers: Stack, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose sample was learned to its end; the tests that share it add no records."""
    directory = tmp_path_factory.mktemp("learned") / "project"
    init.init(directory)
    made = Project(servers, directory)
    made.call("produce", "sample.jsonl")
    made.call("run", "--until-end")
    return made


def test_the_sample_goes_from_init_to_versions_in_the_store(servers: Stack, tmp_path: Path) -> None:
    project = Project(servers, tmp_path)
    assert "headrace run" in project.call("init", "project")
    project.directory = tmp_path / "project"
    assert all(line.startswith("✔") for line in project.call("doctor").splitlines())
    before = project.status()
    assert (before["state"], before["lag"], before["partitions"]) == ("stopped", 0, [])

    project.call("produce", "sample.jsonl")
    waiting = project.status()
    assert (waiting["state"], waiting["lag"]) == ("stopped", 200)
    assert [(p["committed"], p["snapshot"], p["learned"]) for p in waiting["partitions"]] == [(None, None, 0)] * 4

    project.call("run", "--until-end")
    after = project.status()
    assert (after["state"], after["reason"], after["lag"], after["workers"]) == ("stopped", None, 0, [])
    assert after["counts"] == {"records": 200, "predictions": 200, "dead_letters": 0, "skipped": 0, "learned": 200}
    assert after["quality"]["scored"] == 200
    # About two thirds of the sample are no fraud.
    assert after["quality"]["accuracy"] > 0.75
    assert sum(p["learned"] for p in after["partitions"]) == 200
    assert all(p["snapshot"] == p["committed"] and p["lag"] == 0 for p in after["partitions"])
    assert len(project.call("tail", "-n", "500").splitlines()) == 200
    assert "0 records to do" in project.call("doctor")


def test_a_run_says_once_that_each_partition_has_its_own_model(project: Project) -> None:
    env = {**os.environ, **project.settings}
    done = nursery().call(["run", "--workers", "2", "--until-end"], env=env, cwd=project.directory)
    lines = [json.loads(line) for line in done.stderr.splitlines() if "each partition has its own model" in line]
    assert done.returncode == 0
    assert [line["partitions"] for line in lines] == [4]


def test_the_versions_are_listed_newest_first_and_shown_in_full(project: Project) -> None:
    project.call("produce", "sample.jsonl")
    project.call("run", "--until-end")
    first = json.loads(project.call("model", "ls", "--json"))
    project.call("produce", "sample.jsonl")
    project.call("run", "--until-end")
    rows = json.loads(project.call("model", "ls", "--json"))
    versions = [row["version"] for row in rows if row["partition"] == 0]
    assert versions == sorted(versions, reverse=True)
    assert versions[0] > versions[-1]
    assert sum(row["learned"] for row in rows if row["version"] == versions[0]) <= 400
    assert set(rows[0]) == {"partition", "version", "offset", "learned", "created_ms", "bytes", "quality"}

    newest = json.loads(project.call("model", "show", "0", "--json"))
    assert newest["version"] == versions[0]
    assert "LogisticRegression" in newest["model"]
    oldest = next(row for row in first if row["partition"] == 0)
    shown = json.loads(project.call("model", "show", "0", str(oldest["version"]), "--json"))
    assert (shown["version"], shown["offset"]) == (oldest["version"], oldest["offset"])
    assert "LogisticRegression" in project.call("model", "show")
    assert "model ls" in project.call("model", "show", "0", "99", code=1)
    assert "model ls" in project.call("model", "show", "99", code=1)


def test_a_worker_is_seen_while_it_runs_and_gone_when_it_was_asked_to_stop(learned: Project) -> None:
    with learned.running() as process:
        running = await_true(
            lambda: (told := learned.status())["workers"] and told["workers"][0]["partitions"] and told,
            what="the worker to have its partitions",
        )
        assert (running["state"], running["reason"]) == ("running", None)
        assert running["workers"][0]["partitions"] == [0, 1, 2, 3]
        assert running["quality"]["scored"] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 0
    stopped = learned.status()
    assert (stopped["state"], stopped["workers"]) == ("stopped", [])
    assert stopped["counts"] == running["counts"]


def test_run_forks_its_workers_from_a_process_with_one_thread_and_no_client(learned: Project) -> None:
    # Whoever starts it may ignore the ends of its children, and it inherits that.
    process = learned.start("run", preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    try:
        worker = learned.wait_for("running")["workers"][0]["pid"]
        parent = Path(f"/proc/{process.pid}")
        assert (parent / "task" / str(process.pid) / "children").read_text().split() == [str(worker)]
        assert [thread.name for thread in (parent / "task").iterdir()] == [str(process.pid)]
        assert not [file for file in (parent / "fd").iterdir() if file.readlink().name.startswith("socket:")]
        for pid in (process.pid, worker):
            assert b"PYTHONHASHSEED=0" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        os.kill(worker, signal.SIGKILL)
        await_true(
            lambda: [w["restarts"] for w in learned.status()["workers"]] == [1], what="another worker to be there"
        )
    finally:
        process.terminate()
        _, err = process.communicate(timeout=BOUND_S)
    assert (process.returncode, "Traceback" in err) == (0, False)


def test_a_worker_that_was_killed_is_not_taken_for_alive_though_its_lease_still_runs(learned: Project) -> None:
    # A child of this process's own, which is reaped at once; an orphan's remains may lie about as a process.
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(learned.directory / "headrace.toml")],
        env={**os.environ, **learned.settings},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with worker:
        assert learned.wait_for("running")["workers"][0]["pid"] == worker.pid
        worker.kill()
    store = Store(learned.servers.addresses.redis, name=learned.name)
    stopped = learned.status()
    assert Roster(store, name=learned.name).notes(), "the store still has its note"
    assert (stopped["state"], stopped["workers"]) == ("stopped", [])


@pytest.mark.parametrize("away", ["store", "kafka"])
def test_status_says_why_it_is_paused_while_the_reason_does_not_answer(
    learned: Project, away: str, tmp_path: Path
) -> None:
    server = getattr(learned.servers, away)
    with learned.running():
        # A worker that has not joined the group yet can be seen only on its own machine.
        await_true(
            lambda: [one for one in learned.status()["workers"] if one["state"] == "running"], what="a worker to run"
        )
        server.freeze()
        try:
            paused = learned.wait_for("paused")
            # Another machine has no notes of this one's workers.
            elsewhere = learned.wait_for("paused", TMPDIR=str(tmp_path))
            checked = learned.call("doctor", code=69)
        finally:
            server.thaw()
        assert paused["reason"]
        assert elsewhere["reason"]
        assert f"✘ {away}" in checked
        known = paused["counts"] if away == "store" else paused["quality"]
        assert (known or {}).get("records", 200) == 200
        assert known is not None
        assert (paused["counts"] is None) == (away == "kafka")
        again = learned.wait_for("running")
        assert again["counts"] == {"records": 200, "predictions": 200, "dead_letters": 0, "skipped": 0, "learned": 200}


def test_watch_looks_again_each_second_until_it_is_interrupted(learned: Project) -> None:
    process = learned.start("status", "--watch", "--json")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=BOUND_S)
    assert (process.returncode, err) == (0, "")
    assert [json.loads(line)["state"] for line in lines] == ["stopped", "stopped"]


def test_status_of_nothing_at_all_is_69(project: Project) -> None:
    nowhere = {"HEADRACE__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "HEADRACE__REDIS__URL": "redis://127.0.0.1:1/0"}
    assert "headrace doctor" in project.call("status", "--json", code=69, **nowhere)


def test_every_command_writes_ascii_where_the_terminal_has_no_more_and_nothing_of_the_user_s(project: Project) -> None:
    (project.directory / "mending.py").write_text(
        "import os, sys\nprint('noise')\nos.write(1, b'noise\\n')\n"
        "def fix(value):\n    print('noise')\n    return value\n"
        "def leave(value):\n    sys.exit(0)\n"
    )
    good = {"id": "mængde ✔ 😀", "features": {"amount": 1.0, "hour": 3, "country": "NO", "known_device": True}}
    bad = {**good, "label": "så ✔ 😀"}
    records = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in (good, bad))
    (project.directory / "records.jsonl").write_text(records, encoding="utf-8")
    project.call("produce", "records.jsonl")
    project.call("run", "--until-end")

    def told(*words: str, code: int = 0) -> str:
        env = {**os.environ, **project.settings, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        line = [sys.executable, "-m", "headrace", *words]
        done = subprocess.run(line, env=env, cwd=project.directory, capture_output=True, check=False, timeout=BOUND_S)
        assert done.returncode == code, (words, done.stderr)
        assert b"noise" not in done.stdout
        return done.stdout.decode("ascii") + (done.stderr.decode("ascii") if code else "")

    assert json.loads(told("tail"))["id"] == good["id"]
    assert good["id"] in json.loads(told("tail", "dlq"))["value"]
    for words in (("dlq", "ls"), ("dlq", "show")):
        told(*words)
        assert "\\u2714" in told(*words, "--json")
    replay = ("dlq", "replay", "--json", "--edit")
    assert json.loads(told(*replay, "mending:fix"))["to_send"] == 1
    assert "SystemExit" in told(*replay, "mending:leave", code=1)


def findings(project: Project, monkeypatch: pytest.MonkeyPatch, **env: str) -> list[CheckResult]:
    for variable, value in {**project.settings, **env}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "model", raising=False)
    return list(examine(lambda: load(project.directory / "headrace.toml")))


def worst(found: list[CheckResult]) -> list[tuple[str, str]]:
    return [(finding.check, finding.verdict) for finding in found if finding.verdict != "good"]


def test_doctor_finds_topics_that_do_not_fit(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = Topics({"bootstrap.servers": project.servers.addresses.kafka})
    topics.create(f"{project.name}.in", 3, {"cleanup.policy": "compact"})
    topics.create(f"{project.name}.out", 2)
    topics.create(f"{project.name}.dead", 3, {"max.message.bytes": "1000"})
    found = findings(project, monkeypatch)
    # What has no room for a whole record takes it in part, and the pipeline runs.
    assert worst(found) == [("topics", "wrong"), ("topics", "wrong"), ("topics", "warning")]
    words = " ".join(finding.message for finding in found)
    assert f"{project.name}.in is compacted" in words
    assert f"{project.name}.out has 2 partitions" in words
    assert f"{project.name}.dead takes 1000 bytes" in words
    assert all(finding.hint for finding in found if finding.verdict != "good")
    monkeypatch.delitem(sys.modules, "model", raising=False)
    assert doctor(lambda: load(project.directory / "headrace.toml"), json=True) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def make():\n    return 1\n", "can't be loaded"),
        ("def build():\n    return 1\n", "returned int, no River model"),
        ("def build():\n    raise OSError('no disk')\n", "no disk"),
        ("def build(:\n", "is not valid Python"),
    ],
)
def test_doctor_finds_a_model_that_can_not_be_built(
    project: Project, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    (project.directory / "model.py").write_text(source)
    found = findings(project, monkeypatch)
    assert worst(found) == [("model", "misconfigured")]
    assert words in found[1].message


def test_doctor_finds_that_the_marks_and_the_store_are_another_models(
    learned: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from river import linear_model\n\ndef build():\n    return linear_model.Perceptron()\n"
    (learned.directory / "other.py").write_text(source)
    found = worst(findings(learned, monkeypatch, HEADRACE__MODEL__FACTORY="other:build"))
    assert found == [("history", "wrong"), ("store", "wrong")]


def test_doctor_finds_what_is_away_and_goes_on(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(
        project,
        monkeypatch,
        HEADRACE__KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1",
        HEADRACE__REDIS__URL="redis://127.0.0.1:1/0",
        HEADRACE__SINK__HTTP__URL="http://127.0.0.1:1/predictions",
    )
    assert worst(found) == [("kafka", "away"), ("store", "away"), ("http sink", "away")]


def test_doctor_finds_a_property_that_librdkafka_does_not_know(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (project.directory / "headrace.toml").open("a") as file:
        file.write('[kafka.librdkafka]\n"sesion.timeout.ms" = 1\n')
    found = findings(project, monkeypatch)
    assert worst(found) == [("kafka", "misconfigured")]
    assert "sesion.timeout.ms" in " ".join(finding.message for finding in found)
    assert "librdkafka" in project.call("status", code=78)


def test_what_a_member_takes_the_commands_that_look_take_too(project: Project) -> None:
    with (project.directory / "headrace.toml").open("a") as file:
        # Shorter than the session that librdkafka would take by default.
        file.write('[kafka.librdkafka]\n"max.poll.interval.ms" = 30000\n')
    project.call("produce", "sample.jsonl")
    project.call("run", "--until-end")
    assert project.status()["counts"]["records"] == 200
    assert len(project.call("tail", "-n", "500").splitlines()) == 200
    assert project.call("dlq", "ls", "--json")
    project.call("doctor")


def test_doctor_leaves_nothing_behind(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worst(findings(project, monkeypatch)) == []
    there = Topics({"bootstrap.servers": project.servers.addresses.kafka}).partitions()
    assert not [name for name in there if name.startswith(project.name)]
    listing = f"print(__import__('redis').Redis.from_url({project.servers.addresses.redis!r}).keys('{project.name}*'))"
    assert subprocess.run([sys.executable, "-c", listing], capture_output=True, check=True).stdout == b"[]\n"
