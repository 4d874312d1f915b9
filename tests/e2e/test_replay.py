"""The replay on a real Kafka: each dead letter once, wherever it is killed and however often it runs."""

import contextlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from harness import Project, wait_until
from proxy import Proxied

from headrace.consumers.reader import ReaderAway
from headrace.consumers.source import SourceAway
from headrace.consumers.topics import Topics
from headrace.pipeline.config import config as configuration
from headrace.pipeline.config.config import Config
from headrace.pipeline.config.sections import TopicsConfig
from headrace.pipeline.dlq import dlq
from headrace.pipeline.dlq.dead_letters import DeadLetterError
from headrace.pipeline.dlq.replay import ReplayError
from headrace.producers import deadletter
from headrace.producers.writer import WriterAway

Make = Callable[..., Project]
Headers = Sequence[tuple[str, bytes | None]]

NOW_MS = 1_700_000_000_000
BOUND_S = 60.0
RUN = """
import sys
from pathlib import Path
from headrace.pipeline.config import config
from headrace.pipeline.dlq import dlq
from headrace.pipeline.dlq import replay

replay.BATCH_RECORDS_MAX = int(sys.argv[2])
try:
    code = dlq.replay(config.load(Path(sys.argv[1])), execute=True, json=True, edit=sys.argv[3] or None)
except Exception as error:
    sys.exit(f"{error.status} {error} → {error.hint}")
sys.exit(code)
"""
# The client of a replay that dies by SIGKILL at the n-th call of a method, before or after what it does. What
# was produced until then is made sure to be in the log, where an open transaction is all that holds it back.
DIE = """
import os, signal, sys
import confluent_kafka
from headrace.producers import writer

method, count, moment = sys.argv[4], int(sys.argv[5]), sys.argv[6]

class Dying(confluent_kafka.Producer):
    calls = 0

def call(self, *args, **named):
    Dying.calls += 1
    if Dying.calls == count and moment == "before":
        self.flush(10)
        os.kill(os.getpid(), signal.SIGKILL)
    answer = getattr(confluent_kafka.Producer, method)(self, *args, **named)
    if Dying.calls == count:
        self.flush(10)
        os.kill(os.getpid(), signal.SIGKILL)
    return answer

setattr(Dying, method, call)
writer.Producer = Dying
"""


@pytest.fixture
def ready(project: Make) -> Callable[..., Project]:
    """Make a project whose topics are there, as a worker would make them."""

    return lambda **options: with_topics(project(**options))


def with_topics(made: Project) -> Project:
    names = TopicsConfig(features=made.features, predictions=made.predictions, partitions=2)  # type: ignore[call-arg]
    _topics(made).ensure(**names.wanted)
    return made


def _topics(project: Project) -> Topics:
    return Topics(project.client)


def config_of(project: Project, **flags: Any) -> Config:
    addresses = project.stack.addresses
    return configuration.load(
        project.file,
        flags={
            "kafka.bootstrap_servers": addresses.kafka,
            "redis.url": addresses.redis,
            "topics.features": project.features,
            "topics.predictions": project.predictions,
            "topics.dead_letters": project.dead_letters,
            **flags,
        },
    )


def seal(
    project: Project, *, partition: int, offset: int, code: str = "not_json", headers: Headers = (), **more: Any
) -> list[tuple[str, bytes | None]]:
    return deadletter.add_reason(
        headers,
        topic=project.features,
        partition=partition,
        offset=offset,
        group=project.name,
        code=code,
        stage="decode",
        field="",
        message=f"{code} it is",
        timestamp_ms=NOW_MS + offset,
        **more,
    )


def write(project: Project, topic: str, letters: Sequence[dict[str, Any]]) -> None:
    producer = Producer(project.client)
    for letter in letters:
        producer.produce(topic, **letter)
    assert producer.flush(30) == 0


def refuse(project: Project, count: int, *, code: str = "not_json", first: int = 0, **more: Any) -> None:
    """Write dead letters with values 0, 1, 2… that stood in the features' partitions in turn."""
    write(
        project,
        project.dead_letters,
        [
            {
                "value": str(number).encode(),
                "key": b"k%d" % number,
                "partition": number % project.partitions,
                "headers": seal(project, partition=number % project.partitions, offset=number, code=code, **more),
            }
            for number in range(first, first + count)
        ],
    )


def replay(capsys: pytest.CaptureFixture[str], config: Config, **options: Any) -> dict[str, Any]:
    capsys.readouterr()
    code = dlq.replay(config, json=True, **options)
    settle(config)
    summary = json.loads(capsys.readouterr().out)
    assert code == int(summary["edit_failed"] + summary["lost"] + summary["too_large"] > 0)
    return summary


def states(capsys: pytest.CaptureFixture[str], config: Config, **options: Any) -> dict[str, tuple[int, int, int]]:
    capsys.readouterr()
    settle(config)
    assert dlq.ls(config, json=True, **options) == 0
    rows = json.loads(capsys.readouterr().out)
    return {row["code"]: (row["waiting"], row["replayed"], row["parked"]) for row in rows}


def settle(config: Config) -> None:
    """Wait until no transaction is open: Kafka writes its markers a moment after it has confirmed a commit."""
    topics = {name: count for name, count in Topics(config.librdkafka).partitions().items() if config.name in name}
    places = [TopicPartition(name, partition) for name, count in topics.items() for partition in range(count)]
    settings = {**config.librdkafka, "group.id": "x"}
    with contextlib.ExitStack() as closing:
        readers = [Consumer({**settings, "isolation.level": f"read_{level}"}) for level in ("committed", "uncommitted")]
        for reader in readers:
            closing.callback(reader.close)
        for place in places:
            wait_until(
                lambda place=place: (
                    len({reader.get_watermark_offsets(place, timeout=10)[1] for reader in readers}) == 1
                ),
                what=f"the transactions on {place.topic} to be ended",
            )


def sent(project: Project) -> list[Any]:
    return [message for messages in project.read(project.features).values() for message in messages]


def numbers(messages: Sequence[Any]) -> Counter[int]:
    return Counter(int(message.value()) for message in messages)


def log_ends(project: Project, topic: str) -> dict[int, int]:
    """Return where a topic's log ends, with what transactions that are open or aborted wrote."""
    consumer = Consumer({**project.client, "group.id": "x", "isolation.level": "read_uncommitted"})
    ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in project.sent}
    consumer.close()
    return ends


def aborted(project: Project) -> int:
    """Count the records that only a `read_uncommitted` reader of the features sees."""
    ends = log_ends(project, project.features)
    consumer = Consumer({**project.client, "group.id": "x", "isolation.level": "read_uncommitted"})
    consumer.assign([TopicPartition(project.features, partition, 0) for partition in ends])
    seen, until = 0, time.monotonic() + BOUND_S
    while any(place.offset < ends[place.partition] for place in consumer.position(consumer.assignment())):
        assert time.monotonic() < until
        message = consumer.poll(0.1)
        seen += message is not None and message.error() is None
    consumer.close()
    return seen - len(sent(project))


def group_offsets(project: Project) -> dict[int, int]:
    consumer = Consumer({**project.client, "group.id": f"{project.name}.replay"})
    places = consumer.committed([TopicPartition(project.dead_letters, p) for p in project.sent], timeout=30)
    consumer.close()
    return {place.partition: place.offset for place in places}


@contextlib.contextmanager
def replaying(project: Project, *, batch: int = 500, edit: str = "", die: Sequence[str] = ()) -> Iterator[Any]:
    """Run a replay in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", (DIE if die else "") + RUN, str(project.file), str(batch), edit, *die],
        env=project.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_dry_run_tells_what_would_be_sent_and_sends_nothing(ready: Make, capsys: pytest.CaptureFixture[str]) -> None:
    project = ready()
    refuse(project, 5)
    refuse(project, 2, code="bad_label", first=5)
    config = config_of(project)
    summary = replay(capsys, config)
    assert (summary["execute"], summary["selected"], summary["to_send"], summary["sent"]) == (False, 7, 7, 0)
    assert {row["code"]: (row["count"], row["example"]) for row in summary["codes"]} == {
        "not_json": (5, "not_json it is"),
        "bad_label": (2, "bad_label it is"),
    }
    dlq.replay(config)
    assert "7 would be sent" in (said := capsys.readouterr().out)
    assert said.endswith("add --execute to send them\n")
    assert sent(project) == []
    assert not {topic for topic in _topics(project).partitions() if topic.startswith(f"{project.dead_letters}.")}


def test_each_dead_letter_goes_back_as_it_came_and_a_second_replay_sends_nothing(
    ready: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ready()
    own = [("traceparent", b"00-1"), ("empty", b""), ("none", None), ("traceparent", b"00-2"), ("raw", b"\xff\x00")]
    letters = [
        {"value": b"\xff\x00 broken", "key": b"\xfe", "headers": seal(project, partition=1, offset=7, headers=own)},
        {"value": None, "key": None, "headers": seal(project, partition=0, offset=8)},
        {"value": b"", "key": b"", "headers": seal(project, partition=1, offset=9, learned=True)},
    ]
    write(project, project.dead_letters, [{**letter, "partition": 0} for letter in letters])
    config = config_of(project)
    summary = replay(capsys, config, execute=True)
    assert (summary["selected"], summary["sent"], summary["already"]) == (3, 3, 0)
    found = {message.timestamp()[1] - NOW_MS: message for message in sent(project)}
    assert {offset: message.partition() for offset, message in found.items()} == {7: 1, 8: 0, 9: 1}
    assert (found[7].key(), found[7].value()) == (b"\xfe", b"\xff\x00 broken")
    assert (found[8].key(), found[8].value()) == (None, None)
    assert (found[9].key(), found[9].value()) == (b"", b"")
    assert found[7].headers() == [*own, ("dlq.replay.count", b"1")]
    assert found[8].headers() == [("dlq.replay.count", b"1")]
    assert found[9].headers() == [("dlq.replay.count", b"1"), ("dlq.learned", b"true")]
    summary = replay(capsys, config, execute=True)
    assert (summary["selected"], summary["sent"], summary["already"]) == (3, 0, 3)
    assert replay(capsys, config)["to_send"] == 0
    assert len(sent(project)) == 3
    assert states(capsys, config) == {"not_json": (0, 3, 0)}


STEPS = [
    ("init_transactions", 1, "before"),
    ("init_transactions", 1, "after"),
    ("begin_transaction", 2, "after"),
    ("produce", 9, "after"),
    ("send_offsets_to_transaction", 2, "before"),
    ("send_offsets_to_transaction", 2, "after"),
    ("commit_transaction", 2, "before"),
    ("commit_transaction", 2, "after"),
]


def test_a_replay_that_is_killed_at_each_step_and_run_again_sends_each_dead_letter_once(
    ready: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ready()
    count = 120
    refuse(project, count)
    for method, call, moment in STEPS:
        with replaying(project, batch=4, die=(method, str(call), moment)) as process:
            assert process.wait(BOUND_S) == -signal.SIGKILL, (method, moment, process.communicate())
    # Six of the steps come after the first batch of four was committed, and the last after another.
    summary = replay(capsys, config_of(project), execute=True)
    assert (summary["selected"], summary["already"], summary["sent"]) == (count, 28, count - 28)
    assert aborted(project) > 0, "killed transactions left records behind"
    assert numbers(sent(project)) == Counter(range(count))
    assert replay(capsys, config_of(project), execute=True)["sent"] == 0
    assert len(sent(project)) == count


def test_a_replay_that_is_killed_at_random_moments_sends_each_dead_letter_once(
    ready: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ready()
    count, rng = 600, random.Random(7)
    refuse(project, count)
    reached = []
    for _ in range(6):
        here = log_ends(project, project.features)
        with replaying(project, batch=1) as process:
            wait_until(
                lambda here=here: log_ends(project, project.features) != here,
                what="the replay to send",
                timeout_s=BOUND_S,
            )
            time.sleep(rng.uniform(0.0, 0.2))
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait(BOUND_S) == -signal.SIGKILL, process.communicate()
        reached.append(len(sent(project)))
    assert 0 < reached[0] <= reached[-1] < count, f"the kills came while it worked: {reached}"
    summary = replay(capsys, config_of(project), execute=True)
    assert summary["sent"] + summary["already"] == count
    assert numbers(sent(project)) == Counter(range(count))


def test_a_second_replay_fences_the_first_and_nothing_is_sent_twice(
    ready: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ready(partitions=1)
    refuse(project, 8)
    (project.directory / "slow.py").write_text(
        "import pathlib, time\n"
        "here = pathlib.Path(__file__).parent\n"
        "def fix(value):\n"
        "    if value == b'5':\n"
        "        (here / 'waits').touch()\n"
        "        until = time.monotonic() + 60\n"
        "        while not (here / 'go').exists() and time.monotonic() < until:\n"
        "            time.sleep(0.02)\n"
        "    return value\n"
    )
    with replaying(project, batch=2, edit="slow:fix") as first:
        wait_until((project.directory / "waits").exists, what="the first replay to stand still")
        settle(config_of(project))
        assert numbers(sent(project)) == Counter(range(4))
        summary = replay(capsys, config_of(project), execute=True)
        assert (summary["already"], summary["sent"]) == (4, 4)
        (project.directory / "go").touch()
        out, err = first.communicate(timeout=BOUND_S)
    assert (first.returncode, out) == (1, "")
    assert "409 another replay has taken over" in err
    assert "4 were sent" in err
    assert numbers(sent(project)) == Counter(range(8))


def _if_there(call: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return call()
    except (SourceAway, ReaderAway, WriterAway):
        return None


@pytest.mark.xdist_group("proxied")
def test_a_replay_whose_broker_freezes_ends_in_time_and_goes_on_later(
    proxied: Proxied, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # No other test may share a broker that is frozen.
    project = with_topics(Project(proxied.stack, tmp_path / "project", partitions=1))
    refuse(project, 8)
    (project.directory / "freeze.py").write_text(
        "import os, signal\n"
        "def fix(value):\n"
        f"    if value == b'5': os.kill({project.stack.kafka.pid}, signal.SIGSTOP)\n"
        "    return value\n"
    )
    try:
        with replaying(project, batch=2, edit="freeze:fix") as process:
            err = process.communicate(timeout=BOUND_S)[1]
    finally:
        project.stack.kafka.thaw()
    assert process.returncode == 1
    assert err.startswith("503 ") or "\n503 " in err, err
    assert "run it again" in err
    config = config_of(project)
    # A broker that was frozen for so long does not know at once who leads the cluster.
    summary = wait_until(lambda: _if_there(lambda: replay(capsys, config, execute=True)), what="the broker to be back")
    assert summary["sent"] + summary["already"] == 8
    assert numbers(sent(project)) == Counter(range(8))


def test_filters_leave_the_others_for_later_and_the_offset_waits_for_them(
    ready: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ready(partitions=1)
    refuse(project, 4, code="bad_label")
    refuse(project, 4, code="not_json", first=4)
    refuse(project, 2, code="too_large", first=8)
    config = config_of(project)
    assert replay(capsys, config, execute=True, code="not_json")["sent"] == 4
    assert numbers(sent(project)) == Counter(range(4, 8))
    assert group_offsets(project)[0] <= 0, "the first four wait still"
    assert replay(capsys, config, execute=True, limit=3)["sent"] == 3
    again = replay(capsys, config, execute=True, limit=3)
    assert (again["selected"], again["sent"], again["already"]) == (3, 0, 3)
    dlq.replay(config, limit=3)
    assert "the first 3 of them are done: raise --limit" in capsys.readouterr().out
    assert group_offsets(project) == {0: 3}
    assert states(capsys, config) == {"bad_label": (1, 3, 0), "not_json": (0, 4, 0), "too_large": (2, 0, 0)}
    assert replay(capsys, config, execute=True, since="1h", limit=9)["sent"] == 2
    assert replay(capsys, config, since="2100-01-01")["selected"] == 0
    last = replay(capsys, config, execute=True)
    assert (last["selected"], last["sent"], last["already"]) == (10, 1, 9)
    assert group_offsets(project) == {0: 10}
    assert numbers(sent(project)) == Counter(range(10))


def test_a_replay_that_was_limited_sees_what_is_already_done_below_its_offset(
    ready: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ready()
    refuse(project, 10)
    config = config_of(project)
    assert replay(capsys, config, execute=True, limit=6)["sent"] == 6
    assert group_offsets(project)[0] == 5, "all of partition 0 is done"
    more = replay(capsys, config, execute=True, limit=7)
    assert (more["selected"], more["already"], more["sent"]) == (7, 6, 1)


def test_edit_changes_records_leaves_some_and_tells_of_those_that_it_fails_on(
    ready: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ready()
    refuse(project, 6)
    write(project, project.dead_letters, [{"partition": 0, "headers": seal(project, partition=0, offset=6)}])
    (project.directory / "mending.py").write_text(
        "def fix(value):\n"
        "    if value == b'':\n        return b'100'\n"
        "    if value == b'1':\n        return None\n"
        "    if value == b'2':\n        raise ValueError('no cure for two')\n"
        "    return b'1' + value\n"
        "def same(value):\n    return value\n"
        "def text(value):\n    return 'text'\n"
        "number = 5\n"
    )
    config = config_of(project)
    plan = replay(capsys, config, edit="mending:fix")
    assert (plan["to_send"], plan["left"], plan["edit_failed"]) == (5, 1, 1)
    assert dlq.replay(config, execute=True, edit="mending:fix") == 1
    settle(config)
    told = capsys.readouterr()
    assert "0:1 ValueError: no cure for two" in told.err
    assert "5 sent" in told.out
    assert numbers(sent(project)) == Counter([10, 13, 14, 15, 100])
    assert replay(capsys, config, execute=True, edit="mending:same")["sent"] == 2
    assert numbers(sent(project)) == Counter([10, 13, 14, 15, 100, 1, 2])
    refuse(project, 1, first=8)
    for reference, words in (
        ("mending:text", "--edit returned str"),
        ("mending:number", "is not a function"),
        ("mending:absent", "can't be loaded"),
        ("nowhere:fix", "can't be loaded"),
        ("nonsense", "can't be loaded"),
    ):
        with pytest.raises(ReplayError, match=words) as raised:
            dlq.replay(config, execute=True, edit=reference)
        assert raised.value.hint
    assert len(sent(project)) == 7


def test_a_record_that_was_replayed_too_often_is_parked_whole(ready: Make, capsys: pytest.CaptureFixture[str]) -> None:
    project = ready()
    refuse(project, 1)
    refuse(project, 1, first=1, headers=[("a", b"1")], replays=2)
    refuse(project, 1, first=2, headers=[("a", b"1")], replays=3)
    config = config_of(project, **{"dlq.replay_max": 3})
    assert replay(capsys, config)["to_park"] == 1
    summary = replay(capsys, config, execute=True)
    assert (summary["selected"], summary["sent"], summary["parked"]) == (3, 2, 1)
    counts = {int(m.value()): dict(m.headers())[deadletter.REPLAY_COUNT] for m in sent(project)}
    assert counts == {0: b"1", 1: b"3"}
    (parked,) = [m for messages in project.read(f"{project.dead_letters}.parked").values() for m in messages]
    (letter,) = [m for m in project.read(project.dead_letters)[0] if m.value() == b"2"]
    assert (parked.key(), parked.value(), parked.headers(), parked.partition(), parked.timestamp()[1]) == (
        letter.key(),
        letter.value(),
        letter.headers(),
        letter.partition(),
        letter.timestamp()[1],
    )
    assert replay(capsys, config, execute=True)["parked"] == 0
    assert states(capsys, config) == {"not_json": (0, 2, 1)}
    assert states(capsys, config, topic=f"{project.dead_letters}.parked") == {"not_json": (1, 0, 0)}


def test_dead_letters_of_connect_streams_and_spring_are_replayed_from_their_topics(
    ready: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ready()
    topic = f"{project.name}.foreign"
    _topics(project).create(topic, 1)
    connect = {"topic": project.features, "partition": "1", "offset": "40", "exception.class.name": "org.E"}
    streams = {"topic": "another", "partition": "9", "offset": "41", "exception": "org.S", "message": "no"}
    spring = [
        ("kafka_dlt-original-topic", project.features.encode()),
        ("kafka_dlt-original-partition", struct.pack(">i", 1)),
        ("kafka_dlt-original-offset", struct.pack(">q", 42)),
        ("kafka_dlt-original-timestamp", struct.pack(">q", NOW_MS)),
        ("kafka_dlt-exception-fqcn", b"org.X"),
    ]
    write(
        project,
        topic,
        [
            {"value": b"0", "headers": [(f"__connect.errors.{n}", v.encode()) for n, v in connect.items()]},
            {"value": b"1", "headers": [(f"__streams.errors.{n}", v.encode()) for n, v in streams.items()]},
            {"value": b"2", "headers": [("mine", b"1"), *spring]},
            {"value": b"3"},
        ],
    )
    config = config_of(project)
    assert states(capsys, config, topic=topic) == dict.fromkeys(["org.E", "org.S", "org.X", "unknown"], (1, 0, 0))
    plan = replay(capsys, config, topic=topic)
    assert (plan["to_send"], plan["foreign"]) == (2, {"another": 1, "unknown": 1})
    dlq.replay(config, topic=topic)
    said = capsys.readouterr().out
    assert f"2 left that did not come from {project.features} (another 1, unknown 1): --foreign" in said
    assert replay(capsys, config, execute=True, topic=topic)["sent"] == 2
    found = {int(message.value()): message for message in sent(project)}
    assert sorted(found) == [0, 2]
    assert (found[0].partition(), found[2].partition()) == (1, 1)
    assert found[2].timestamp()[1] == NOW_MS
    assert ("mine", b"1") in found[2].headers()
    assert states(capsys, config, topic=topic)["org.S"] == (1, 0, 0)
    assert replay(capsys, config, execute=True, topic=topic, foreign=True)["sent"] == 2
    found = {int(message.value()): message for message in sent(project)}
    assert sorted(found) == [0, 1, 2, 3]
    assert found[3].timestamp()[1] > NOW_MS
    assert all(dict(m.headers())[deadletter.REPLAY_COUNT] == b"1" for m in found.values())
    assert replay(capsys, config, execute=True, topic=topic, foreign=True)["sent"] == 0
    assert states(capsys, config, topic=topic) == dict.fromkeys(["org.E", "org.S", "org.X", "unknown"], (0, 1, 0))
    dlq.ls(config, topic=topic)
    assert {"another", "unknown", project.features} <= set(capsys.readouterr().out.split())
    with pytest.raises(DeadLetterError, match="there is no topic"):
        dlq.replay(config, topic="absent")


def test_dead_letters_that_come_while_it_runs_are_left_for_the_next(
    ready: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ready(partitions=1)
    refuse(project, 3)
    (project.directory / "busy.py").write_text(
        "from confluent_kafka import Producer\n"
        "def fix(value):\n"
        f"    producer = Producer({project.client!r})\n"
        f"    producer.produce({project.dead_letters!r}, b'1' + value, partition=0)\n"
        "    producer.flush(10)\n"
        "    return value\n"
    )
    config = config_of(project)
    assert replay(capsys, config, execute=True, edit="busy:fix")["sent"] == 3
    assert numbers(sent(project)) == Counter(range(3))
    assert replay(capsys, config, execute=True)["sent"] == 3
    assert numbers(sent(project)) == Counter([0, 1, 2, 10, 11, 12])


def test_receipts_do_not_count_for_dead_letters_of_a_topic_that_was_made_again(
    ready: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ready(partitions=1)
    refuse(project, 4)
    config = config_of(project)
    assert replay(capsys, config, execute=True)["sent"] == 4
    admin = AdminClient(project.client)
    admin.delete_topics([project.dead_letters])[project.dead_letters].result(30)
    wait_until(lambda: project.dead_letters not in _topics(project).partitions(), what="the topic to be gone")
    _topics(project).create(project.dead_letters, 1)
    refuse(project, 4, first=4)
    assert states(capsys, config) == {"not_json": (4, 0, 0)}
    assert replay(capsys, config, execute=True)["sent"] == 4
    assert numbers(sent(project)) == Counter(range(8))


def test_a_record_that_its_topic_never_takes_is_left_and_said_and_the_others_go(
    ready: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    project = ready(partitions=1)
    refuse(project, 3)
    (project.directory / "blow.py").write_text(
        "def up(value):\n    return b'x' * 2_000_000 if value == b'1' else value\n"
    )
    config = config_of(project)
    assert replay(capsys, config, edit="blow:up")["too_large"] == 1
    assert dlq.replay(config, execute=True, edit="blow:up") == 1
    told = capsys.readouterr()
    assert "left: 0:1 would have 2000" in told.err
    assert f"{project.features} takes 1048588 (max.message.bytes)" in told.err
    assert "2 sent" in told.out
    assert "1 left because they are too large" in told.out
    settle(config)
    assert numbers(sent(project)) == Counter([0, 2])
    assert replay(capsys, config, execute=True)["sent"] == 1


def test_show_prints_one_whole_or_those_of_a_selection(ready: Make, capsys: pytest.CaptureFixture[str]) -> None:
    project = ready()
    write(
        project,
        project.dead_letters,
        [
            {
                "value": b"\xff[red]\x1b[31m",
                "key": b"k",
                "partition": 1,
                "headers": seal(project, partition=1, offset=5, headers=[("h", b"v")]),
            }
        ],
    )
    refuse(project, 3, code="bad_label")
    config = config_of(project)
    dlq.show(config, position="1:0")
    said = capsys.readouterr().out
    assert f"{project.dead_letters}[1]@0  400 not_json  waiting" in said
    assert f"{project.features}[1]@5" in said
    assert r"\xff[red]\x1b[31m" in said
    assert "h: v" in said
    assert "\x1b" not in said
    dlq.show(config, position="1:0", json=True)
    whole = json.loads(capsys.readouterr().out)
    assert whole["value_base64"] == "/1tyZWRdG1szMW0="
    assert "value" not in whole
    assert (whole["code"], whole["key"], whole["headers"]["h"]) == ("not_json", "k", "v")
    assert whole["source"] == {"topic": project.features, "partition": 1, "offset": 5}
    dlq.show(config, code="bad_label", limit=2, json=True)
    assert [json.loads(line)["value"] for line in capsys.readouterr().out.splitlines()] == ["0", "2"]
    for position in ("1:77", "7:0", "x"):
        with pytest.raises(DeadLetterError) as raised:
            dlq.show(config, position=position)
        assert raised.value.hint


def test_a_repaired_record_is_predicted_and_learned_once_however_often_it_is_replayed(
    project: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    made = project()
    good = [json.dumps({"features": {"a": n / 7, "b": -n / 3}, "label": n % 3 == 0}).encode() for n in range(40)]
    for partition in (0, 1):
        made.produce(
            [*good[partition::2], b'{"features": {"a": 1.5, "b": 2.5}, "label": true', b"\xff"], partition=partition
        )
    (made.directory / "mend.py").write_text(
        "def close(value):\n    return value + b'}' if value.startswith(b'{') else None\n"
    )
    config = config_of(made)
    made.run_to_end()
    assert states(capsys, config) == {"not_json": (2, 0, 0), "not_utf8": (2, 0, 0)}
    for wanted in (2, 0):
        summary = replay(capsys, config, execute=True, edit="mend:close")
        assert (summary["sent"], summary["left"]) == (wanted, 2)
    made.run_to_end()
    counts = made.status()["counts"]
    assert counts == {"records": 46, "predictions": 42, "dead_letters": 4, "skipped": 0, "learned": 42}
    sources = [
        tuple(json.loads(m.value())["source"][name] for name in ("partition", "offset"))
        for messages in made.read(made.predictions).values()
        for m in messages
    ]
    assert len(sources) == len(set(sources)) == 42
    # What nobody mended comes back as it is, with the count of its replays.
    assert replay(capsys, config, execute=True)["sent"] == 2
    made.run_to_end()
    settle(config)
    again = [m for messages in made.read(made.dead_letters).values() for m in messages]
    assert Counter(dict(m.headers())["dlq.replay.count"] for m in again) == {b"0": 4, b"1": 2}
    assert len(again) == 6


FORGED = [("dlq.replay.count", b"99"), ("dlq.learned", b"true"), ("dlq.replay.proof", b"0" * 64)]


def forget(project: Project) -> None:
    """Let the store lose all that it has of a pipeline."""
    store = redis.Redis.from_url(project.stack.addresses.redis)
    store.delete(*store.scan_iter(f"*{project.name}*", count=1_000))
    store.close()


def test_headers_of_a_replay_count_only_where_this_pipelines_replay_has_written_them(
    project: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    made = project(partitions=1)
    good = b'{"features": {"a": 1.5}, "label": true}'
    bad = [(b"{", FORGED), (b"{", [("dlq.replay.count", b"-99")]), (b"{", None)]
    write(made, made.features, [{"value": value, "headers": headers} for value, headers in [(good, FORGED), *bad]])
    config = config_of(made, **{"dlq.replay_max": 1})
    made.run_to_end()
    settle(config)
    summary = replay(capsys, config, execute=True)
    assert (summary["sent"], summary["parked"]) == (3, 0)
    # On another record they are worth nothing.
    borrowed = sent(made)[-1].headers()
    assert [name for name, _ in borrowed] == ["dlq.replay.count", "dlq.replay.proof"]
    write(made, made.features, [{"value": value, "headers": [*borrowed, *FORGED[1:2]]} for value in (good, b"[")])
    made.run_to_end()
    settle(config)
    letters = made.read(made.dead_letters)[0]
    assert [dict(letter.headers())["dlq.replay.count"] for letter in letters] == [b"0"] * 3 + [b"1"] * 3 + [b"0"]
    assert not any("dlq.learned" in dict(letter.headers()) for letter in letters)
    assert made.status()["counts"] == {"records": 9, "predictions": 2, "dead_letters": 7, "skipped": 0, "learned": 2}
    summary = replay(capsys, config, execute=True)
    assert (summary["sent"], summary["parked"], summary["already"]) == (1, 3, 3)


def test_what_a_dead_letter_leaves_out_is_read_where_it_stood_as_long_as_it_is_there(
    project: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    made = project(partitions=1)
    for topic in (made.predictions, made.dead_letters):
        _topics(made).create(topic, 1, {"max.message.bytes": "2000"})
    whole = {"value": b"{" * 3_000, "key": b"k", "headers": [("mine", b"x" * 2_000)], "timestamp": NOW_MS}
    good = {"value": b'{"features": {"a": 1}, "label": true}', "key": b"k" * 3_000}
    write(made, made.features, [whole, good, {**whole, "key": b"k" * 3_000, "timestamp": NOW_MS + 1}])
    made.run_to_end()
    config = config_of(made)
    assert dlq.show(config, position="0:0") == 0
    assert "omitted  value: 3,000 bytes" in capsys.readouterr().out
    summary = replay(capsys, config, execute=True, limit=2)
    assert (summary["sent"], summary["lost"]) == (2, 0)
    again, learned = sent(made)[-2:]
    assert (again.key(), again.value(), again.timestamp()[1]) == (b"k", whole["value"], NOW_MS)
    assert again.headers()[:2] == [*whole["headers"], ("dlq.replay.count", b"1")]
    assert (learned.key(), dict(learned.headers())["dlq.learned"]) == (good["key"], b"true")
    made.run_to_end()
    counts = {"records": 5, "predictions": 0, "dead_letters": 5, "skipped": 0, "learned": 1}
    assert made.status()["counts"] == counts
    forget(made)
    made.run_to_end()
    assert made.status()["counts"] == counts, "relearning comes to the same verdicts"
    admin = AdminClient(made.client)
    place = TopicPartition(made.features, 0, 3)
    admin.delete_records([place])[place].result(10)
    left = replay(capsys, config, execute=True, limit=3)
    assert (left["sent"], left["lost"], left["already"]) == (0, 1, 2)
    assert left["reasons"] == [f"0:2 the part that it leaves out is no longer at {made.features}[0]@2"]
    assert states(capsys, config)["not_json"][0] == 2
