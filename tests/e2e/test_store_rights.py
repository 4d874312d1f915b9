"""The rights in the store that docs/security.md names are all that the pipeline needs, in every scope."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from harness import Project, nursery, values

from headrace.pipeline.embedded import Stack

PAGE = Path(__file__).parents[2] / "docs/security.md"


@pytest.fixture
def limited(stack: Stack, project: Callable[..., Project]) -> Iterator[Callable[..., Project]]:
    """Make a project whose user in the store has the page's rights, for its own name, and no others."""
    (rule,) = re.findall(r"valkey-cli ACL SETUSER (headrace on .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    admin = redis.Redis.from_url(stack.addresses.redis)
    users = []

    def make(**options: str) -> Project:
        made = project(partitions=1)
        user, *words = shlex.split(
            rule.replace("\\\n", " ").replace("PASSWORD", "secret-of-the-test").replace("~fraud:", f"~{made.name}:")
        )
        users.append(f"{user}-{made.name}")
        admin.execute_command("ACL", "SETUSER", users[-1], *words)
        at = urlsplit(stack.addresses.redis)
        url = f"redis://{users[-1]}:secret-of-the-test@{at.hostname}:{at.port}/0"
        made.settings = {"HEADRACE__REDIS__URL": url, **options}
        return made

    yield make
    for user in users:
        admin.execute_command("ACL", "DELUSER", user)
    admin.close()


@pytest.mark.parametrize("scope", ["partition", "key", "global"])
def test_the_rights_in_the_store_that_the_page_names_are_enough(limited: Callable[..., Project], scope: str) -> None:
    p = limited(HEADRACE__MODEL__SCOPE=scope, HEADRACE__DLQ__FLOOD_GUARD="false")
    p.produce(values(60), partition=0)
    p.run_to_end()
    # A second start takes over, rewinds and reads what the first has saved.
    p.produce(values(60, seed=1), partition=0)
    p.run_to_end()
    assert p.status()["counts"]["records"] == 120
    for words in (["doctor"], ["model", "ls"]):
        done = nursery().call([*words, "-c", str(p.file)], env=p.env)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
