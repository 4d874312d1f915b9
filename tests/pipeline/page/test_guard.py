"""Which requests the page answers."""

from pathlib import Path

import pytest

from headrace.pipeline.config.config import ConfigError
from headrace.pipeline.page.guard import Asked, Guard, Token


def asked(host: str, **options: str) -> Asked:
    return Asked(**{"method": "GET", "path": "/", "host": host, **options})


@pytest.mark.parametrize(
    ("listens", "host", "is_own"),
    [
        ("127.0.0.1", "127.0.0.1:8600", True),
        ("127.0.0.1", "localhost:8600", True),
        ("127.0.0.1", "[::1]:8600", True),
        ("localhost", "127.0.0.1:8600", True),
        ("::1", "[::1]:8600", True),
        ("127.0.0.1", "127.0.0.1:8601", False),
        ("127.0.0.1", "127.0.0.1", False),
        ("127.0.0.1", "10.0.0.1:8600", False),
        ("127.0.0.1", "evil.example:8600", False),
        ("127.0.0.1", "localhost.evil.example:8600", False),
        ("127.0.0.1", "127.0.0.1:8600@evil.example", False),
        ("127.0.0.1", "user@127.0.0.1:8600", False),
        ("127.0.0.1", "127.0.0.1:8600/x", False),
        ("127.0.0.1", "127.0.0.1:port", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "\0", False),
        ("0.0.0.0", "10.0.0.1:8600", True),
        ("0.0.0.0", "localhost:8600", True),
        ("0.0.0.0", "evil.example:8600", False),
        ("10.0.0.1", "10.0.0.1:8600", True),
        ("10.0.0.1", "10.0.0.2:8600", False),
        ("stream.example", "stream.example:8600", True),
        ("stream.example", "STREAM.example:8600", True),
        ("stream.example", "evil.example:8600", False),
    ],
)
def test_a_request_must_name_the_page_as_its_host(listens: str, host: str, is_own: bool) -> None:  # noqa: FBT001
    refusal = Guard(listens, 8600, token=None, actions=()).refusal(asked(host))
    assert (refusal == "") is is_own
    if refusal:
        assert "host" in refusal


@pytest.mark.parametrize(
    ("options", "is_own"),
    [
        ({"origin": "http://localhost:8600"}, True),
        ({"origin": "http://127.0.0.1:8600"}, False),
        ({"origin": "https://localhost:8600"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"site": "same-origin"}, True),
        ({"site": "none", "mode": "navigate"}, True),
        ({"site": "cross-site", "mode": "navigate"}, True),
        ({"site": "cross-site", "mode": "no-cors"}, False),
        ({"site": "same-site", "mode": "cors"}, False),
    ],
)
def test_a_request_of_another_page_is_refused(options: dict[str, str], is_own: bool) -> None:  # noqa: FBT001
    guard = Guard("127.0.0.1", 8600, token=None, actions=())
    assert (guard.refusal(asked("localhost:8600", **options)) == "") is is_own


def test_an_action_needs_the_token_and_a_name() -> None:
    token = Token(None)
    guard = Guard("127.0.0.1", 8600, token=token, actions=("replay",))
    good = {"method": "POST", "path": "/actions/replay", "authorization": f"Bearer {token.drawn}"}
    assert guard.refusal(asked("localhost:8600", **good)) == ""
    for wrong in (
        {"authorization": ""},
        {"authorization": f"Basic {token.drawn}"},
        {"authorization": f"Bearer {token.drawn}x"},
        {"authorization": "Bearer "},
        {"path": "/actions/none"},
        {"path": "/"},
        {"method": "DELETE"},
        {"method": "OPTIONS"},
    ):
        assert guard.refusal(asked("localhost:8600", **{**good, **wrong})), wrong
    assert "actions are off" in Guard("127.0.0.1", 8600, token=None, actions=("replay",)).refusal(
        asked("localhost:8600", **good)
    )


def test_the_token_of_a_file_may_change_while_the_page_runs(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    token = Token(file)
    assert token.fits("Bearer first")
    file.write_text("second")
    assert not token.fits("Bearer first")
    assert token.fits("bearer second")
    assert token.drawn == ""


def test_a_token_file_that_is_missing_or_empty_is_named_and_opens_nothing(tmp_path: Path) -> None:
    token = Token(tmp_path / "token")
    with pytest.raises(ConfigError, match="token_file"):
        token.read()
    assert not token.fits("Bearer ")
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        token.read()
    assert not token.fits("Bearer ")
