"""Tokens and certificates: who is let in, and that both are taken anew while the server runs."""

import hashlib
from pathlib import Path

import pytest
import trustme

from headrace.pipeline.serve.http.access import AccessFileInvalid, Tls, Tokens


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def test_only_a_bearer_of_a_token_in_the_file_is_let_in(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# of the team\n{digest('one')}\n\n{digest('two').upper()}\n")
    tokens = Tokens(file)
    for good in (b"Bearer one", b"bearer two", b"BEARER  one"):
        assert tokens.check(good) is None
    for bad in (b"", b"Bearer", b"Bearer three", b"Basic one", b"one", b"Bearer " + digest("one").encode()):
        problem = tokens.check(bad)
        assert problem is not None
        assert problem.status == 401
        assert b"www-authenticate" in problem.headers
    file.write_text(digest("three"))
    tokens.reload()
    assert tokens.check(b"Bearer three") is None
    assert tokens.check(b"Bearer one") is not None


def test_a_file_of_tokens_that_is_none_is_refused_and_the_old_tokens_stay(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(digest("one"))
    tokens = Tokens(file)
    file.write_text("one\n")
    with pytest.raises(AccessFileInvalid, match="line 1 is not a SHA-256"):
        tokens.reload()
    assert tokens.check(b"Bearer one") is None
    with pytest.raises(AccessFileInvalid, match="can't be read"):
        Tokens(tmp_path / "nowhere")
    # An empty file lets nobody in.
    file.write_text("")
    assert Tokens(file).check(b"Bearer one") is not None


def test_a_token_with_a_quota_is_held_to_it(tmp_path: Path) -> None:
    file, now = tmp_path / "tokens", [100.0]
    file.write_text(f"{digest('free')}\n{digest('three')} 3\n")
    tokens = Tokens(file, clock=lambda: now[0])

    def let_in(token: str, times: int) -> int:
        return sum(tokens.check(f"Bearer {token}".encode()) is None for _ in range(times))

    assert let_in("free", 50) == 50
    assert let_in("three", 50) == 3
    refused = tokens.check(b"Bearer three")
    assert refused is not None
    assert (refused.status, refused.code) == (429, "quota")
    assert b"retry-after: 1" in refused.headers
    now[0] += 0.4
    assert let_in("three", 50) == 1
    now[0] += 60
    assert let_in("three", 50) == 3
    file.write_text(f"{digest('three')} many\n")
    with pytest.raises(AccessFileInvalid, match="a number of requests a second"):
        tokens.reload()


def test_a_new_certificate_is_used_and_a_broken_one_is_not(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def issue() -> None:
        made = trustme.CA().issue_cert("localhost")
        cert.write_bytes(made.cert_chain_pems[0].bytes())
        key.write_bytes(made.private_key_pem.bytes())

    issue()
    tls = Tls(cert, key)
    before = tls.context
    issue()
    tls.reload()
    assert tls.context is not before
    now = tls.context
    key.write_text("no key")
    with pytest.raises(AccessFileInvalid, match=r"serve\.tls_cert"):
        tls.reload()
    assert tls.context is now
    assert Tls(None, None).context is None
