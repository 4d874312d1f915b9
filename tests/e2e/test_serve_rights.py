"""A server whose user in the store has only the rights of docs/security.md, beside a stream with late labels."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import oracle
import pytest
import redis
from harness import Project, values, wait_until
from labelled import Sent, labelled, send
from server import serving

from headrace.pipeline.embedded import Stack

pytestmark = pytest.mark.kafka

PAGE = Path(__file__).parents[2] / "docs/security.md"
COUNT = 120
KEY = b"c-1"
QUESTION = {"a": 0.5, "b": -1.25, "c": 2.0, "d": 0.125}


@pytest.fixture
def user_of(stack: Stack) -> Iterator[Callable[[Project], str]]:
    """Give a project's server a user with the rights of the page, and no others; return the address with this user."""
    (rule,) = re.findall(r"valkey-cli ACL SETUSER (headrace-serve on .*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    admin = redis.Redis.from_url(stack.addresses.redis)
    users = []

    def make(p: Project) -> str:
        rights = rule.replace("\\\n", " ").replace("PASSWORD", "secret-of-the-test")
        user, *words = shlex.split(rights.replace("fraud", p.name))
        users.append(f"{user}-{p.name}")
        admin.execute_command("ACL", "SETUSER", users[-1], *words)
        # The server must send its scripts itself: another user has sent the same ones before.
        admin.script_flush()
        at = urlsplit(stack.addresses.redis)
        return f"redis://{users[-1]}:secret-of-the-test@{at.hostname}:{at.port}/0"

    yield make
    for user in users:
        admin.execute_command("ACL", "DELUSER", user)
    admin.close()


def taught(p: Project) -> Any:
    """Send features with a label behind each, let the pipeline learn them, and return plain River after the same."""
    model, sent = oracle.logistic(), []
    for value in values(COUNT, seed=3):
        record = json.loads(value)
        label = record.pop("label")
        sent.append(Sent(False, 0, json.dumps(record).encode(), key=KEY))
        sent.append(Sent(True, 0, json.dumps({"id": record["id"], "label": label}).encode(), key=KEY))
        model.learn_one(record["features"], label)
    send(p, sent)
    p.run_to_end()
    return model


@pytest.mark.parametrize("scope", ["partition", "key", "global"])
def test_the_rights_that_the_page_names_are_enough_and_the_place_has_the_labels_offset(
    project: Callable[..., Project], user_of: Callable[[Project], str], scope: str
) -> None:
    p = labelled(project, partitions=1, settings={"HEADRACE__MODEL__SCOPE": scope})
    model = taught(p)
    p.settings["HEADRACE__REDIS__URL"] = url = user_of(p)
    with serving(p) as server, redis.Redis.from_url(url) as client:
        answer = server.predict({"key": KEY.decode(), "features": QUESTION}).body
        assert "proba" in answer, (answer, server.log())
        expected = model.predict_proba_one(QUESTION)[True]
        # The shared model was merged: its numbers are the same but for rounding.
        assert answer["proba"]["true"] == (pytest.approx(expected, rel=1e-9) if scope == "global" else expected)
        place = {name: value for name, value in answer["model"].items() if "offset" in name or name == "partition"}
        if scope == "global":
            assert place == {"offsets": {"0": COUNT}, "labels_offsets": {"0": COUNT}}
        else:
            assert place == {"partition": 0, "offset": COUNT, "labels_offset": COUNT}
        note = f"{p.name}:{{{p.name}}}:server"
        wait_until(lambda: client.get(note), what="the note that a server is there")
        # These are the rights: it writes nothing else, and reads nothing of others.
        for refused in (("SET", f"{p.name}:x", "1"), ("DEL", note), ("GET", "other:x"), ("KEYS", "*")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*refused)
        assert "NOPERM" not in server.log()
