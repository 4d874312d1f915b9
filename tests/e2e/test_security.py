"""Every way into Kafka and the store works; one that is refused is told in one line, and no secret is shown."""

import json
import re
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka.admin import ResourceType  # type: ignore[attr-defined]
from harness import Project, nursery, steady, values, wait_until
from oracle import promise
from proxy import Proxy, RedisWire
from secured import PASSWORD, USER, Secured, new_signing_key, page_rights, secured_stack
from trap import SOAK

# One broker for all of them.
pytestmark = pytest.mark.xdist_group("secured")

SCRAM_PASSWORD = "scr4m-of-the-test"
NEW_PASSWORD = "n3w-of-the-test"
STORE_PASSWORD = "st0re-of-the-test"
SECRETS = (PASSWORD, SCRAM_PASSWORD, NEW_PASSWORD, STORE_PASSWORD, "wr0ng-of-the-test")
TOKEN_MODULE = """
import base64, json, time

calls = []

def token(config):
    words = dict(part.split("=") for part in config.split())
    now = time.time()
    calls.append(now)
    if len(calls) > int(words.get("good", 1_000)):
        raise RuntimeError("the token server is on fire")
    body = {"sub": words["user"], "aud": "kafka", "iat": now - 600, "exp": now + float(words["lives"])}
    head = {"alg": "RS256", "kid": "test"} if "key" in words else {"alg": "none"}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, body)]
    parts.append(signed(words["key"], b".".join(parts)) if "key" in words else b"")
    return b".".join(parts).decode(), now + max(float(words["lives"]), 60)

def signed(file, text):
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding
    with open(file, "rb") as key:
        loaded = serialization.load_pem_private_key(key.read(), None)
    return base64.urlsafe_b64encode(loaded.sign(text, padding.PKCS1v15(), hashes.SHA256())).rstrip(b"=")
"""

Make = Callable[..., Project]


@pytest.fixture(scope="session")
def secured() -> Iterator[Secured]:
    with secured_stack() as running:
        running.set_scram_password(SCRAM_PASSWORD)
        yield running


@pytest.fixture
def make(secured: Secured, tmp_path: Path) -> Make:
    """Make a project that comes in through a listener with these properties of librdkafka."""

    def made(listener: str, properties: dict[str, Any], **options: Any) -> Project:
        p = Project(secured.stack, tmp_path / f"project-{len(list(tmp_path.iterdir()))}", partitions=1, **options)
        p.settings["HEADRACE__KAFKA__BOOTSTRAP_SERVERS"] = secured.addresses[listener]
        (p.directory / "token_of.py").write_text(TOKEN_MODULE)
        oauth = ['oauth = "token_of:token"'] if properties.get("sasl.mechanism") == "OAUTHBEARER" else []
        lines = [f'"{name}" = {json.dumps(value)}' for name, value in properties.items()]
        with p.file.open("a") as file:
            file.write("\n".join(["[kafka]", *oauth, "[kafka.librdkafka]", *lines, ""]))
        return p

    return made


@pytest.fixture(scope="session")
def client(secured: Secured) -> tuple[Path, Path]:
    return secured.authority.issue(USER)


def _tls(secured: Secured, **more: str) -> dict[str, str]:
    return {"security.protocol": "SSL", "ssl.ca.location": str(secured.authority.trusted), **more}


def _sasl(secured: Secured, mechanism: str, password: str = "") -> dict[str, str]:
    login = {"sasl.username": USER, "sasl.password": password} if password else {}
    return {**_tls(secured), "security.protocol": "SASL_SSL", "sasl.mechanism": mechanism, **login}


def _oauth(secured: Secured, words: str) -> dict[str, str]:
    return {**_sasl(secured, "OAUTHBEARER"), "sasl.oauthbearer.config": words}


def _certified(secured: Secured, pair: tuple[Path, Path]) -> dict[str, str]:
    return {**_tls(secured), "ssl.certificate.location": str(pair[0]), "ssl.key.location": str(pair[1])}


def _ways(secured: Secured, client: tuple[Path, Path]) -> dict[str, dict[str, str]]:
    return {
        "TLS": _tls(secured),
        "MTLS": _certified(secured, client),
        "PLAIN": _sasl(secured, "PLAIN", PASSWORD),
        "SCRAM": _sasl(secured, "SCRAM-SHA-512", SCRAM_PASSWORD),
        "OAUTH": _oauth(secured, f"user={USER} lives=300"),
        "JWKS": _oauth(secured, f"user={USER} lives=300 key={secured.signing_key}"),
    }


def _call(p: Project, *words: str) -> "tuple[int, str]":
    """Call a command; return its exit code and all its output, in which no secret may be."""
    done = nursery().call([*words, "-c", str(p.file)], env=p.env, cwd=p.directory)
    told = done.stdout + done.stderr
    assert not [secret for secret in SECRETS if secret in told], words
    assert "Traceback" not in told
    return done.returncode, told


def _refusal(told: str) -> tuple[str, str]:
    """Return the error of a command and its hint: the only lines that are no log and no data."""
    error, hint = [line for line in told.splitlines() if not line.startswith("{")]
    assert (error.startswith("headrace: "), hint.startswith("  → ")) == (True, True), told
    return error, hint


@pytest.mark.parametrize("way", ["TLS", "MTLS", "PLAIN", "SCRAM", "OAUTH", "JWKS"])
def test_every_way_into_kafka_works_for_the_pipeline_and_for_the_commands(
    secured: Secured, make: Make, client: tuple[Path, Path], way: str
) -> None:
    p = make(way, _ways(secured, client)[way])
    secured.grant(p)
    # The commands read the outputs and write records, too.
    rights = [(topic, right) for topic in (p.features, p.predictions, p.dead_letters) for right in ("READ", "WRITE")]
    secured.allow([(ResourceType.TOPIC, *right) for right in rights])
    p.produce(values(60, bad_every=20), partition=0)
    p.run_to_end()
    sample = p.directory / "more.jsonl"
    more = values(20, seed=1)
    sample.write_bytes(b"\n".join(more) + b"\n")
    assert _call(p, "produce", str(sample))[0] == 0
    p.sent[0] += more
    log = p.run_to_end()
    assert not [secret for secret in SECRETS if secret in log]
    p.check()
    calls = [["status", "--json"], ["doctor"], ["tail", "predictions", "-n", "1"], ["dlq", "ls"], ["config", "show"]]
    for words in calls:
        code, told = _call(p, *words)
        assert code == 0, (words, told)


def test_the_rights_in_kafka_that_the_page_lists_are_enough_and_each_is_needed(secured: Secured, make: Make) -> None:
    way = _sasl(secured, "SCRAM-SHA-512", SCRAM_PASSWORD)
    p = make("SCRAM", way)
    secured.grant(p)
    p.produce(values(40, bad_every=20), partition=0)
    p.run_to_end()
    p.check()
    assert len(page_rights()) == 5
    for row in page_rights():
        less = make("SCRAM", way)
        secured.grant(less, without=row)
        less.produce(values(10), partition=0)
        with less.running() as run:
            wait_until(lambda run=run: run.process.poll() is not None, what=f"the run to end without: {row}")
            assert run.process.returncode == 78, (row, run.log())
            _, hint = _refusal(run.log())
            assert "give the user" in hint, (row, hint)


def test_who_is_refused_is_told_why_in_one_line_by_each_command(secured: Secured, make: Make, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    other = {**_tls(secured), "ssl.ca.location": str(type(secured.authority)(stranger).trusted)}
    old = secured.authority.issue(USER, days=-1, file="old-client")
    forged = stranger / "signing.key"
    new_signing_key(forged)
    cases = [
        ("PLAIN", _sasl(secured, "PLAIN", SECRETS[-1]), "sasl.password"),
        ("SCRAM", _sasl(secured, "SCRAM-SHA-512", SECRETS[-1]), "sasl.password"),
        ("OAUTH", _oauth(secured, f"user={USER} lives=-300"), "kafka.oauth"),
        ("OAUTH", _oauth(secured, "good=0"), "kafka.oauth"),
        ("JWKS", _oauth(secured, f"user={USER} lives=300 key={forged}"), "kafka.oauth"),
        ("EXPIRED", _tls(secured), "ssl.ca.location"),
        ("TLS", other, "ssl.ca.location"),
        ("MTLS", _certified(secured, old), "certificate"),
        ("MTLS", _tls(secured), "certificate"),
    ]
    for number, (listener, properties, hinted) in enumerate(cases):
        p = make(listener, properties)
        commands = [["run"], ["doctor"], ["produce", str(p.directory / "model.py")]]
        # Each command makes its clients in its own way, and each kind of refusal comes from the same client.
        for words in commands if SOAK else [commands[number % len(commands)]]:
            code, told = _call(p, *words)
            assert code == 78, (listener, properties, words, told)
            assert hinted in told, (listener, words, told)
            assert secured.addresses[listener] in told, (listener, words, told)
            if words != ["doctor"]:
                assert "kafka.bootstrap_servers" in _refusal(told)[0], told


def test_a_token_that_fails_later_is_told_like_one_that_fails_at_once(secured: Secured, make: Make) -> None:
    p = make("OAUTH", _oauth(secured, f"user={USER} lives=300 good=1"))
    secured.grant(p)
    secured.allow([(ResourceType.TOPIC, p.features, "WRITE")])
    (p.directory / "more.jsonl").write_bytes(b"\n".join(values(5)))
    # The client that looks at the topics gets a token, and the one that sends the records gets none.
    code, told = _call(p, "produce", str(p.directory / "more.jsonl"))
    assert code == 78, told
    error, hint = _refusal(told)
    assert "the token server is on fire" in error
    assert f"kafka.bootstrap_servers is {secured.addresses['OAUTH']}" in error
    assert "kafka.oauth" in hint


def test_a_wrong_listener_or_none_is_told_within_three_seconds_and_waited_for(secured: Secured, make: Make) -> None:
    cases = [
        ("PLAINTEXT", _tls(secured), "PLAINTEXT"),
        ("TLS", {}, "security.protocol"),
        ("NOBODY", {}, "Connection refused"),
    ]
    for listener, properties, words in cases:
        p = make("TLS", properties)
        address = "127.0.0.1:1" if listener == "NOBODY" else secured.addresses[listener]
        p.settings["HEADRACE__KAFKA__BOOTSTRAP_SERVERS"] = address
        code, told = _call(p, "produce", str(p.directory / "model.py"))
        assert code == 69, told
        assert words in told
        assert f"kafka.bootstrap_servers is {address}" in _refusal(told)[0]
        started = time.monotonic()
        with p.running() as run:
            wait_until(lambda run=run: '"waiting"' in run.log(), what="the run to say what it waits for", timeout_s=8)
            line = json.loads(next(line for line in run.log().splitlines() if '"waiting"' in line))
            assert time.monotonic() - started < 6
            assert address in line["reason"]
            assert words in line["reason"]


def test_a_new_password_and_a_new_certificate_are_taken_while_the_stream_flows(
    secured: Secured, make: Make, tmp_path: Path
) -> None:
    certificate, key = (Path(shutil.copy(file, tmp_path)) for file in secured.authority.issue(USER, file="first"))
    password = tmp_path / "password"
    password.write_text(f"{SCRAM_PASSWORD}\n")
    properties = _sasl(secured, "SCRAM-SHA-512", f"${{file:{password}}}")
    properties |= {"ssl.certificate.location": str(certificate), "ssl.key.location": str(key)}
    p = make("SCRAM", properties)
    secured.grant(p)
    try:
        with promise(p), steady(p, values(20_000, bad_every=50), per_second=500) as producing, p.running() as run:
            wait_until(lambda: p.committed()[0][0] > 500, what="the stream to flow")
            # First the broker, then the file, as an operator does who has only one password.
            secured.set_scram_password(NEW_PASSWORD)
            password.write_text(f"{NEW_PASSWORD}\n")
            _replaced(run, 1)
            for old, new in zip((certificate, key), secured.authority.issue(USER, file="second"), strict=True):
                shutil.copy(new, old)
            _replaced(run, 2)
            begin = p.committed()[0][0]
            wait_until(lambda: p.committed()[0][0] > begin + 500, what="the stream to flow on")
            producing.stop()
            p.wait_for_all()
            assert run.stop() == 0, run.log()
            told = run.log_file.read_text()
            assert "worker died" not in told
            assert not [secret for secret in SECRETS if secret in told]
    finally:
        secured.set_scram_password(SCRAM_PASSWORD)


def _replaced(run: Any, times: int) -> None:
    def count() -> int:
        return run.log_file.read_text().count('"partition taken over"')

    wait_until(lambda: count() > times, what=f"the worker to be replaced {times} times", timeout_s=30)


def test_a_store_with_tls_and_users_takes_a_new_certificate_and_a_wrong_one_is_told_in_one_line(
    secured: Secured, make: Make, tmp_path: Path
) -> None:
    p = make("PLAINTEXT", {})
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*secured.authority.issue("store"))
    admin = redis.Redis.from_url(secured.stack.addresses.redis)
    admin.acl_setuser(p.name, enabled=True, passwords=[f"+{STORE_PASSWORD}"], keys=[f"{p.name}:*"], commands=["+@all"])
    trusted = tmp_path / "store-ca.pem"
    shutil.copy(secured.authority.trusted, trusted)
    with Proxy(secured.stack.store.port, wire=RedisWire, tls=tls) as store:
        url = f"rediss://{p.name}:{STORE_PASSWORD}@{store.address}/0"
        p.settings |= {"HEADRACE__REDIS__URL": url, "HEADRACE__REDIS__CLIENT__SSL_CA_CERTS": str(trusted)}
        with promise(p), steady(p, values(20_000, bad_every=50), per_second=500) as producing, p.running() as run:
            wait_until(lambda: p.committed()[0][0] > 500, what="the stream to flow")
            # Another authority: the store's certificate first, then the file of the clients.
            folder = tmp_path / "next"
            folder.mkdir()
            following = type(secured.authority)(folder)
            tls.load_cert_chain(*following.issue("store"))
            store.cut()
            store.heal()
            wait_until(lambda: "certificate" in str(p.status()["reason"]), what="the certificate to be refused")
            shutil.copy(following.trusted, trusted)
            wait_until(lambda: p.status()["state"] == "running", what="the stream to flow on", timeout_s=30)
            producing.stop()
            p.wait_for_all()
            assert run.stop() == 0, run.log()
        tls.load_cert_chain(*following.issue("store", days=-1, file="old-store"))
        cases = [
            ({}, "certificate has expired", 78),
            (
                {"HEADRACE__REDIS__URL": f"rediss://127.0.0.1:{secured.stack.store.port}/0"},
                "a port without TLS does not answer",
                69,
            ),
            ({"HEADRACE__REDIS__URL": url.replace(STORE_PASSWORD, SECRETS[-1])}, "invalid username-password", 78),
            ({"HEADRACE__REDIS__URL": "rediss://127.0.0.1:1/0"}, "refused", 69),
        ]
        for settings, words, code in cases:
            if "invalid" in words:
                tls.load_cert_chain(*following.issue("store"))
            p.settings |= settings
            for command in (["model", "ls"], *([["doctor"], ["run"]] if code == 78 else [])):
                found, told = _call(p, *command)
                assert found == code, (words, command, told)
                assert re.search(words, told), (words, command, told)
                assert "redis.url is rediss://" in told
    admin.acl_deluser(p.name)
    admin.close()
