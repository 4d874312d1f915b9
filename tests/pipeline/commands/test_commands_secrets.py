"""No secret of a configuration in anything that a command prints or writes, however it ends."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MARK = "m4rk-hunter2"
PROPERTIES = """
sasl.password sasl.username sasl.oauthbearer.config sasl.oauthbearer.client.secret sasl.oauthbearer.client.id
ssl.key.password ssl.key.pem ssl.certificate.pem ssl.keystore.password ssl.ca.pem sasl.kerberos.keytab
sasl.kerberos.principal sasl.oauthbearer.extensions sasl.oauthbearer.token.endpoint.url
""".split()  # noqa: SIM905 a list that is read
# Clients are made with these, and fail on their way to nowhere; with all of them they are not even made.
PLAIN = {"sasl.mechanism": "PLAIN", "security.protocol": "sasl_plaintext", "debug": "all", "log_level": "7"}
COMMANDS = (("config", "show"), ("doctor", "--json"), ("status",), ("model", "ls"), ("run", "--until-end"))


@pytest.fixture(params=["NOAUTH"])
def store(request: pytest.FixtureRequest) -> Iterator[int]:
    """A store that quotes what it was sent as it turns its clients away."""
    refusal = f"-{request.param} of what you said, ".encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    said = connection.recv(65_536).replace(b"\r\n", b" ")
                    connection.sendall((refusal + said + b" is wrong\r\n") * 3)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def toml(table: dict[str, str]) -> str:
    return "".join(f'"{name}" = "{value}"\n' for name, value in table.items())


def told(directory: Path, *words: str, text: str, **environment: str) -> tuple[int, str]:
    (directory / "headrace.toml").write_text(text)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE")}
    done = subprocess.run(
        [sys.executable, "-m", "headrace", *words],
        cwd=directory,
        env={**clean, "TMPDIR": str(directory), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def written(directory: Path) -> str:
    """Return all that was written below a directory, names and contents, but for the configuration itself."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "headrace.toml"]
    return "".join(f"{path} {path.read_bytes().decode('latin-1')}" for path in files)


def configurations(port: int) -> dict[str, str]:
    everywhere = (
        f'[redis]\nurl = "redis://user-{MARK}:word-{MARK}@127.0.0.1:{port}/0"\n'
        f'[sink.http]\nurl = "http://user-{MARK}:word-{MARK}@127.0.0.1:1/hook-{MARK}?t={MARK}"\n'
        f'[sink.http.headers]\nauthorization = "Bearer {MARK}"\n[log]\nlevel = "debug"\n'
        '[kafka]\nbootstrap_servers = "127.0.0.1:1"\n[kafka.librdkafka]\n'
    )
    properties = {name: f"{MARK}-{name}" for name in PROPERTIES}
    return {
        "good": everywhere + toml({**PLAIN, "sasl.username": f"user-{MARK}", "sasl.password": f"word-{MARK}"}),
        "not taken by librdkafka": everywhere + toml({**properties, "security.protocol": "ssl"}),
        "unknown property": everywhere + toml({**PLAIN, "sasl.pasword": MARK}),
        "not valid": everywhere.replace("127.0.0.1:1/hook", f"127.0.0.1:{MARK}/hook"),
    }


@pytest.mark.parametrize("which", configurations(0))
def test_no_command_prints_or_writes_a_secret(store: int, tmp_path: Path, which: str) -> None:
    (tmp_path / "model.py").write_text(
        "from river import linear_model\n\ndef build():\n    return linear_model.LogisticRegression()\n"
    )
    text = configurations(store)[which]
    codes = {}
    for words in COMMANDS if which == "good" else (("doctor",), ("run",)):
        codes[words], printed = told(tmp_path, *words, text=text)
        assert MARK not in printed, words
        assert "Traceback" not in printed, words
        assert "a bug" not in printed, words
    assert codes[words] in {0, 1, 69, 78}
    assert MARK not in written(tmp_path)


@pytest.mark.parametrize("debug", ["", "1"])
def test_no_debugging_prints_one_either(store: int, tmp_path: Path, debug: str) -> None:
    (tmp_path / "model.py").write_text("def build():\n    raise NotImplementedError\n")
    text = configurations(store)["not taken by librdkafka"]
    _, printed = told(tmp_path, "status", text=text, HEADRACE_DEBUG=debug)
    assert MARK not in printed
    assert ("Traceback" in printed) == bool(debug)


def test_an_address_that_stands_in_the_wrong_place_is_not_repeated_with_its_password(tmp_path: Path) -> None:
    for words in (("run",), ("model", "show", "0"), ("config", "--redis-ulr"), ("status", "--name")):
        code, printed = told(tmp_path, *words, f"redis://me:{MARK}/x@host:1/0", text="")
        assert MARK not in printed, words
        assert code in {2, 78}, printed


@pytest.mark.parametrize("store", ["LOADING"], indirect=True)
def test_a_note_that_says_why_a_worker_waits_has_no_secret(store: int, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "from river import linear_model\n\ndef build():\n    return linear_model.LogisticRegression()\n"
    )
    (tmp_path / "headrace.toml").write_text(configurations(store)["good"])
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE", "XDG_RUNTIME"))}
    with (tmp_path / "run.log").open("wb") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "headrace", "run"],
            cwd=tmp_path,
            env={**clean, "TMPDIR": str(tmp_path)},
            stderr=log,
            stdout=log,
        )
        until = time.monotonic() + 60
        while not (notes := list(tmp_path.glob("headrace-*/*/worker-0.json"))):
            assert run.poll() is None, (tmp_path / "run.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        note = notes[0].read_text()
        run.terminate()
        run.wait(30)
    assert "of what you said" in note
    assert "***" in note
    assert MARK not in written(tmp_path)
