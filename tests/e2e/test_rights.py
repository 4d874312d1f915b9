"""What Kafka does not let the pipeline do ends it with one line that names the right; given it, it goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from harness import Project, values, wait_until
from oracle import promise

from headrace.pipeline.embedded import Stack

EVERYBODY = ("User:ANONYMOUS", "*")
# Whoever is not denied something may do it.
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Stack]:
    with Stack(kafka_settings=AUTHORIZER) as running:
        yield running


@contextmanager
def _denied(p: Project, kind: ResourceType, name: str, operation: AclOperation) -> Iterator[None]:
    """Deny everybody one operation on a thing, of those that are allowed otherwise."""
    admin, where = AdminClient(p.client), (kind, name, ResourcePatternType.LITERAL, *EVERYBODY)
    rules = [(AclOperation.ALL, AclPermissionType.ALLOW), (operation, AclPermissionType.DENY)]
    for done in admin.create_acls([AclBinding(*where, *rule) for rule in rules], request_timeout=10).values():
        done.result()
    yield
    for done in admin.delete_acls([AclBindingFilter(*where, *rule) for rule in rules], request_timeout=10).values():
        done.result()


def test_each_right_that_is_missing_ends_the_run_with_one_line_and_nothing_is_lost(
    guarded: Stack, tmp_path: Path
) -> None:
    p = Project(guarded, tmp_path / "project")
    p.produce(values(200, bad_every=50), partition=0)
    p.run_to_end()
    cases = [
        ("on its output", ResourceType.TOPIC, p.predictions, AclOperation.WRITE, "WRITE on the output topics"),
        ("on its dead letters", ResourceType.TOPIC, p.dead_letters, AclOperation.WRITE, "WRITE on the output topics"),
        ("to see its output", ResourceType.TOPIC, p.predictions, AclOperation.DESCRIBE, "CREATE and DESCRIBE"),
        ("of its transactions", ResourceType.TRANSACTIONAL_ID, f"{p.name}-0", AclOperation.WRITE, "transactional ids"),
        ("on its input", ResourceType.TOPIC, p.features, AclOperation.READ, "READ on the features topic"),
        ("in its group", ResourceType.GROUP, p.name, AclOperation.READ, "on the group"),
    ]
    with promise(p):
        p.produce(values(100, bad_every=50, seed=1), partition=1)
        for right, kind, name, operation, hint in cases:
            with _denied(p, kind, name, operation), p.running() as run:
                wait_until(lambda run=run: run.process.poll() is not None, what=f"the run to end for a right {right}")
                assert run.process.returncode == 78, f"{right}: {run.log()}"
                said = [line for line in run.log().splitlines() if not line.startswith("{")]
                assert len(said) == 2, said
                assert said[0].startswith(("headrace: Kafka denies it: ", "headrace: Kafka refuses what ")), said
                assert hint in said[1], said
        with _denied(p, ResourceType.TOPIC, p.predictions, AclOperation.DESCRIBE_CONFIGS):
            log = p.run_to_end()
        assert "a topic's limit is not known" in log
        assert f"give the user DESCRIBE_CONFIGS on {p.predictions}" in log
