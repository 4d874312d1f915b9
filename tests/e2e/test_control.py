"""Commands and the journal on a real Kafka: each command is done once, at one place, whatever happens meanwhile."""

import json
import threading
from collections.abc import Callable
from typing import Any

from harness import Project, nursery, steady, values, wait_until
from oracle import promise
from trap import SOAK, Trap

from headrace.consumers.topics import Topics
from headrace.pipeline.config import config as configuration
from headrace.pipeline.config.config import Config
from headrace.pipeline.control import command_sender
from headrace.pipeline.process.failpoint import FailpointName
from headrace.state.history import journal
from headrace.state.history.command import Command
from headrace.state.history.journal import JournalEntry
from headrace.state.store.store import Store

Make = Callable[..., Project]
PLACES: tuple[FailpointName, ...] = ("learned", "begun", "offsets", "between", "produced", "committed")
COMMANDS = 1_000 if SOAK else 30


def config_of(p: Project) -> Config:
    flags = {
        "kafka.bootstrap_servers": p.stack.addresses.kafka,
        "redis.url": p.stack.addresses.redis,
        "topics.features": p.features,
        "topics.predictions": p.predictions,
    }
    return configuration.load(p.file, flags=flags)


def unknown(number: int) -> Command:
    """Return a command that every release refuses, which is an outcome like any other."""
    return Command(f"c-{number}", "unheardof", {"name": f"n{number}"}, by="test")


def journals(p: Project) -> dict[int, list[JournalEntry]]:
    found = p.read(f"journal.{p.name}")
    return {partition: [journal.decode(one.value()) for one in messages] for partition, messages in found.items()}


def call(p: Project, *words: str) -> Any:
    done = nursery().call([*words, "--json", "-c", str(p.file)], env=p.env)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def assert_each_was_done_once(p: Project, count: int) -> dict[int, list[JournalEntry]]:
    """See that each partition has each command once, in one order, and that the marks tell of all of it."""
    found = journals(p)
    for partition, entries in found.items():
        assert [entry.seq for entry in entries] == list(range(1, count + 1)), partition
        assert sorted(entry.command for entry in entries) == sorted(f"c-{number}" for number in range(count))
        assert [entry.control for entry in entries] == sorted(entry.control for entry in entries)
        mark = p.committed()[partition][1]
        assert mark is not None
        assert mark.entries == count
    return found


def test_commands_under_kills_are_each_done_once_at_one_place(project: Make) -> None:
    p = project(settings={"HEADRACE__SNAPSHOT__RECORDS_MAX": "500"})
    config, sent = config_of(p), threading.Event()

    def send_all() -> None:
        wait_until(lambda: f"control.{p.name}" in Topics(p.client).partitions(), what="the topics to be made")
        for number in range(COMMANDS):
            command_sender.send(config, unknown(number))
            # The same command once more, now and then.
            if number % 5 == 0:
                command_sender.send(config, unknown(number))
        sent.set()

    sender = threading.Thread(target=send_all, daemon=True)
    with promise(p), steady(p, values(100_000, bad_every=4), per_second=300) as producing:
        sender.start()
        for at in PLACES * (10 if SOAK else 1):
            trap = Trap(p, at, hit=2)
            with p.running():
                trap.spring()
        with p.running() as run:
            wait_until(sent.is_set, what="all commands to be sent", timeout_s=600)
            for number in range(COMMANDS):
                command_sender.wait(config, f"c-{number}", timeout_s=60)
            producing.stop()
            p.wait_for_all(timeout_s=120)
            assert run.stop() == 0, run.log()
    sender.join(10)
    assert_each_was_done_once(p, COMMANDS)


def test_a_command_is_taken_on_an_idle_topic_and_after_the_store_was_emptied_it_is_not_done_again(
    project: Make,
) -> None:
    p = project()
    for partition in p.sent:
        p.produce(values(300, seed=partition), partition=partition)
    p.run_to_end()
    config = config_of(p)
    with p.running() as run:
        command_sender.send(config, unknown(0))
        first = command_sender.wait(config, "c-0", timeout_s=60)
        assert {one.entry.place for one in first.values()} == {(300, -1)}
        assert run.stop() == 0, run.log()
    for partition in p.sent:
        p.produce(values(200, seed=9 + partition), partition=partition)
    Store(p.stack.addresses.redis, name=p.name).client.flushall()
    # A second worker, another batch size: the fold is the same.
    p.settings["HEADRACE__BATCH__RECORDS_MAX"] = "7"
    p.run_to_end(workers=2)
    p.check()
    assert [[one.command for one in entries] for entries in journals(p).values()] == [["c-0"], ["c-0"]]
    told = call(p, "control", "show", "c-0")
    assert [one["what"] for one in told["partitions"]] == ["refused", "refused"]
    assert [one["offset"] for one in call(p, "model", "history")] == [300, 300]
    why = call(p, "model", "why", "1:400")
    assert (why["generation"], why["since"], why["name"]) == (1, 0, "model")
    done = nursery().call(["model", "why", "1:500", "-c", str(p.file)], env=p.env)
    assert done.returncode == 1
    assert "1:500" in done.stderr


def test_another_factory_and_a_new_history_are_generations_of_their_own(project: Make) -> None:
    p = project(partitions=1)
    p.produce(values(100), partition=0)
    p.run_to_end()
    other = "from river import tree\n\ndef build():\n    return tree.HoeffdingTreeClassifier()\n"
    (p.directory / "model.py").write_text(other)
    p.produce(values(50, seed=3), partition=0)
    p.run_to_end(on_loss="fresh")
    [entry] = journals(p)[0]
    assert (entry.what, entry.place, entry.begins, entry.generation) == ("takeover", (100, -1), (100, -1), 2)
    generations = [json.loads(one.value())["model"]["generation"] for one in p.read(p.predictions)[0]]
    assert generations == [1] * 100 + [2] * 50
    Store(p.stack.addresses.redis, name=p.name).client.flushall()
    p.produce(values(50, seed=4), partition=0)
    p.run_to_end()
    generations = [json.loads(one.value())["model"]["generation"] for one in p.read(p.predictions)[0]]
    assert generations[150:] == [2] * 50
    assert len(journals(p)[0]) == 1
    assert call(p, "model", "why", "0:120")["since"] == 100
    assert call(p, "model", "why", "0:99")["generation"] == 1


def test_topics_that_do_not_keep_all_records_turn_commands_off_in_one_line(project: Make) -> None:
    p = project(partitions=1)
    Topics(p.client).create(f"control.{p.name}", 3)
    p.produce(values(20), partition=0)
    log = p.run_to_end()
    [line] = [line for line in log.splitlines() if "commands on models are off" in line]
    assert "3 partitions" in line
    p.check()


def test_a_journal_that_is_gone_stops_a_pipeline_that_depends_on_it(project: Make) -> None:
    p = project(partitions=1)
    p.produce(values(100), partition=0)
    config = config_of(p)
    with p.running() as run:
        wait_until(lambda: f"control.{p.name}" in Topics(p.client).partitions(), what="the topics to be made")
        command_sender.send(config, unknown(0))
        command_sender.wait(config, "c-0", timeout_s=60)
        p.wait_for_all()
        assert run.stop() == 0, run.log()
    admin = Topics(p.client)._admin
    admin.delete_topics([f"journal.{p.name}"])[f"journal.{p.name}"].result()
    wait_until(lambda: f"journal.{p.name}" not in Topics(p.client).partitions(), what="the topic to be gone")
    Store(p.stack.addresses.redis, name=p.name).client.flushall()
    with p.running() as run:
        # Its last records may come late, so it is waited for.
        wait_until(lambda: "entry 1 of the journal" in run.log(), what="the worker to say what it waits for")
