"""`headrace ask`: asks the running server for predictions, or the models in the store when no server runs."""

import os
import sys
from pathlib import Path
from typing import Any

from headrace.pipeline.config.config import Config
from headrace.pipeline.console import as_json, data
from headrace.pipeline.exit_code import EXIT_FAILED
from headrace.pipeline.serve.model_client import ModelClient


def ask(config: Config, *, file: Path | None, key: str | None, json: bool) -> int:
    """Ask for the records of a file, or of standard input; return 1 if one was refused. Raises AnswerRefused."""
    body = sys.stdin.buffer.read() if file is None else file.read_bytes()
    answers = ModelClient(config).ask(body, None if key is None else os.fsencode(key)).answers
    for answer in answers:
        data.write((as_json(answer) if json else _line(answer)) + "\n")
    return EXIT_FAILED if any("error" in answer for answer in answers) else 0


def _line(answer: dict[str, Any]) -> str:
    """Return an answer for people."""
    if "error" in answer:
        error = answer["error"]
        return f"refused ({error['code']}): {error['detail']}"
    if answer.get("skipped"):
        return "skipped"
    model, proba = answer["model"], answer.get("proba")
    shown = as_json(answer["prediction"])
    if proba:
        shown += f" ({', '.join(f'{label} {p:.4g}' for label, p in proba.items() if p is not None)})"
    if answer.get("score") is not None:
        shown += f" (score {answer['score']:.4g})"
    place = f"partition {model['partition']} at offset {model['offset']}" if "partition" in model else "all partitions"
    named = f"{answer['id']}: " if answer.get("id") else ""
    return f"{named}{shown}, by version {model['version']} of {place}"
