"""Headrace's side of a measurement: the files of a project, and the command that runs it to the end."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.pipeline.embedded import Addresses

_HERE = Path(__file__).parent


class Project:
    """Projects in one directory, all with the same model."""

    def __init__(self, addresses: Addresses, directory: Path) -> None:
        self.addresses = addresses
        self.directory = directory
        shutil.copy(_HERE / "model.py", directory)

    def command(
        self,
        name: str,
        *,
        features: str,
        settings: Mapping[str, Any] | None = None,
        workers: int = 1,
        until_end: bool = True,
    ) -> tuple[list[str], dict[str, str]]:
        """Write a configuration with these `settings`; return the command that runs it, and its environment.

        Predictions go to the topic `name`.
        """
        whole = {
            "name": name,
            "kafka.bootstrap_servers": self.addresses.kafka,
            "topics.features": features,
            "topics.predictions": name,
            "redis.url": self.addresses.redis,
            **(settings or {}),
        }
        file = self.directory / f"{name}.toml"
        file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in whole.items()))
        env = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
        words = ["--workers", str(workers), "-c", str(file), *(["--until-end"] if until_end else [])]
        return [sys.executable, "-m", "headrace", "run", *words], env

    def log(self, name: str) -> Path:
        """Return the log file of a run."""
        return self.directory / f"{name}.log"
