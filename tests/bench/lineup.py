"""The lineup: the programs to compare, which of them are installed, and the command of each.

The frameworks have their own environment, `.venv/peers`: they need other versions of the Kafka clients than Headrace,
and each program is measured with the versions that it asks for.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]

HEADRACE = "headrace"
TITLES = {
    "loop": "hand-written loop",
    "tuned": "tuned loop",
    "quix-alo": "Quix Streams, at-least-once",
    "quix-eo": "Quix Streams, exactly-once",
    "quix-avro": "Quix Streams, Avro, at-least-once",
    "bytewax": "Bytewax",
    "faust": "Faust",
    HEADRACE: "headrace, exactly-once",
    f"{HEADRACE}-alo": "headrace, at-least-once",
    "copy": "bare copy, without a model",
}
"""The programs in the order of the report."""
COMMIT_S = 1.0
"""The commit interval of Quix when speed is measured: the same as that of the hand-written loop."""
PEERS_PYTHON = _ROOT / ".venv/peers/bin/python"
INSTALL = (
    "python3 -m venv .venv/peers && "
    ".venv/peers/bin/python -m pip install --require-hashes --requirement tests/bench/requirements.lock"
)
"""The command that installs the missing programs."""

_SERVERS = ("fastapi", "flask")
_NEEDS = {
    "quix-alo": "quixstreams",
    "quix-eo": "quixstreams",
    "quix-avro": "quixstreams",
    "bytewax": "bytewax",
    "faust": "faust-streaming",
}
_PLOTS = "matplotlib"
_GUARANTEES = {"quix-alo": "at-least-once", "quix-eo": "exactly-once", "quix-avro": "at-least-once"}
_LOOK = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_LOOK_S = 30.0


class Lineup:
    """The programs of this machine. `versions` has those of the packages in the peers' environment."""

    def __init__(self, python: Path) -> None:
        self.python = python
        self.versions = self._look([*dict.fromkeys(_NEEDS.values()), *_SERVERS, _PLOTS, "confluent-kafka", "river"])
        self.missing = [name for name in dict.fromkeys(_NEEDS.values()) if name not in self.versions]

    def present(self, programs: Sequence[str]) -> list[str]:
        """Return the installed programs, in the order of the lineup."""
        return [name for name in TITLES if name in programs and _NEEDS.get(name) not in self.missing]

    def command(
        self,
        program: str,
        *,
        bootstrap: str,
        features: str,
        output: str,
        count: int,
        commit_s: float = COMMIT_S,
        registry: str = "",
    ) -> tuple[list[str], dict[str, str]]:
        """Return the command of a peer, and its environment. With a `count` of 0 it never ends.

        With a `registry` Quix reads the records in Avro.
        """
        words = [bootstrap, features, output]
        if program not in _NEEDS:
            return [sys.executable, str(_HERE / "peer.py"), program, *words, str(count)], dict(os.environ)
        module = f"peer_{program.partition('-')[0]}.py"
        if program in _GUARANTEES:
            words = [_GUARANTEES[program], *words, str(count), str(commit_s), *([registry] if registry else [])]
        elif program != "bytewax":
            words = [*words, str(count)]
        return [str(self.python), "-W", "ignore", str(_HERE / module), *words], dict(os.environ)

    def plotter(self, *words: str) -> list[str]:
        """Return the command that draws the plots."""
        return [str(self.python), str(_HERE / "plot.py"), *words]

    @property
    def plots(self) -> bool:
        """Whether matplotlib is installed."""
        return _PLOTS in self.versions

    def _look(self, names: Sequence[str]) -> dict[str, str]:
        try:
            command = [str(self.python), "-c", _LOOK, *names]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LOOK_S, check=True)
        except (OSError, subprocess.CalledProcessError):
            return {}
        found: dict[str, str] = json.loads(done.stdout)
        return found
