"""`headrace config`: check the configuration, or show where each value comes from. It connects to nothing."""

import ast
import importlib
import json as json_format
import os
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from headrace.pipeline import model_factory
from headrace.pipeline.config.config import ENV_PREFIX, Config, ConfigError, describe, read
from headrace.pipeline.config.redaction import shown
from headrace.pipeline.console import data
from headrace.state.models.learner import RiverLearner
from headrace.state.models.user_modules import shadowing


def check(config: Config, *, file: Path, json: bool) -> int:
    """Check that the factory builds a model, then print that the file is good. Raises ConfigError, ModelError."""
    build_model(config)
    for challenger in config.challengers.values():
        model_factory.builder_of(config, challenger.factory)()
    if json:
        _print({"ok": True, "file": str(file), "name": config.name})
    else:
        data.write(f"{file} is good\n")
    return 0


def show(config: Config, *, file: Path, flags: Mapping[str, Any], json: bool) -> int:
    """Print every key with its value and its origin: default, file, environment or flag. Secrets are hidden."""
    in_file = read(file)
    values = []
    for key, default, _ in describe():
        value = shown(key, _value(config, key, default), secrets=config.secrets)
        # The value of one key may contain the secret of another.
        value = config.conceal(value) if isinstance(value, str) else value
        values.append({"key": key, "value": value, "origin": _origin(key, in_file, flags)})
    if json:
        _print(values)
        return 0
    for row in values:
        data.write(f"{row['key']} = {json_format.dumps(row['value'], ensure_ascii=False)}  # {row['origin']}\n")
    return 0


def build_model(config: Config) -> RiverLearner:
    """Build the model with the configured factory, and check that it fits the scope. Raises ConfigError, ModelError."""
    find_module(config)
    built = model_factory.builder(config)()
    if config.model.scope == "global":
        importlib.import_module("headrace.state.shared.merge").check(built.model)
    return built


def find_module(config: Config) -> None:
    """Find the factory's module beside the file, or installed, without importing it. Raises ConfigError."""
    hidden = shadowing(config.directory)
    if hidden:
        raise ConfigError(
            f"{config.directory / hidden} hides a module of the same name of Headrace, Python or a library",
            hint=f"give {hidden} another name",
        )
    factory = config.model.factory
    module = factory.partition(":")[0]
    beside = config.directory.joinpath(*module.split("."))
    source = next((p for p in (beside.with_suffix(".py"), beside / "__init__.py") if p.is_file()), None)
    if source is None:
        if PathFinder.find_spec(module.partition(".")[0], sys.path) is None:
            raise ConfigError(
                f"model.factory = {factory!r}: there is no {beside.with_suffix('.py')}",
                hint="write it (`headrace init DIR` makes one to start from), or name another module",
            )
        return
    try:
        ast.parse(source.read_bytes())
    except (SyntaxError, ValueError, OSError) as error:
        raise ConfigError(
            f"model.factory = {factory!r}: {source} is not valid Python: {error}", hint="fix the line that it names"
        ) from error


def _value(config: Config, key: str, default: Any) -> Any:
    node: Any = config
    for part in key.split("."):
        # pydantic has a method `schema`, so the attribute has another name.
        node = getattr(node, "schema_" if part == "schema" else part, None)
        if node is None:
            return default if isinstance(default, str | int | float) else None
    return node


def _origin(key: str, in_file: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
    if key in flags:
        return "flag"
    variable = ENV_PREFIX + key.upper().replace(".", "__")
    if any(name.upper() == variable or name.upper().startswith(f"{variable}__") for name in os.environ):
        return "environment"
    node: Any = in_file
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return "default"
        node = node[part]
    return "file"


def _print(value: Any) -> None:
    data.write(json_format.dumps(value, ensure_ascii=False) + "\n")
