"""`headrace serve`: answers over HTTP from the models in the store, beside the stream."""

import gc
from pathlib import Path
from typing import Any

from headrace.pipeline import assembly, console
from headrace.pipeline.config import config as configuration
from headrace.pipeline.serve import server_parent
from headrace.pipeline.telemetry import configure_logs
from headrace.state.models import learner


def serve(file: Path, *, workers: int | None, port: int | None, flags: dict[str, Any]) -> int:
    """Serve until a signal comes; return the exit code. Raises ConfigError, AddressTaken."""
    given = {"serve.workers": workers, "serve.port": port}
    flags = {**flags, **{key: value for key, value in given.items() if value is not None}}
    config = configuration.load(file, flags=flags)
    console.hide(config.conceal)
    configure_logs(level=config.log.level, style=config.log.format)
    learner.preload()
    assembly.warm(config)
    # The processes share the memory pages of the parent. A collector that visits these objects would copy the pages.
    gc.freeze()
    return server_parent.run(file, flags, config)
