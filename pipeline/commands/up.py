"""`headrace up`: the embedded Kafka and Valkey, and a schema registry if asked, until Ctrl-C."""

import json as json_format
import signal
import sys
from pathlib import Path

from headrace.pipeline.console import data
from headrace.pipeline.embedded import Addresses, EmbeddedError, Stack
from headrace.pipeline.exit_code import EXIT_AWAY


def up(*, json: bool, data_dir: Path | None, registry: bool = False) -> int:
    """Run the stack until SIGINT or SIGTERM; print its addresses; return the exit code."""
    # Both signals must also interrupt the start, which may be in the middle of a download.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Stack(data_dir=data_dir, with_registry=registry, progress=_print_error) as stack:
            data.write((as_json(stack.addresses) if json else as_text(stack.addresses)) + "\n")
            data.flush()
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return 0
    except EmbeddedError as error:
        _print_error(f"{error}\n  {error.hint}")
        return EXIT_AWAY
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def as_json(addresses: Addresses) -> str:
    """Return the addresses as one line of JSON, for scripts."""
    found = {"kafka": addresses.kafka, "redis": addresses.redis}
    return json_format.dumps(found | ({"registry": addresses.registry} if addresses.registry else {}))


def as_text(addresses: Addresses) -> str:
    """Return the addresses for people, with lines to paste into a shell."""
    kafka = "Apache Kafka" if addresses.kind == "kafka" else "mock Kafka"
    servers = [f"{kafka} at {addresses.kafka}", f"Valkey at {addresses.redis}"]
    exports = {"KAFKA__BOOTSTRAP_SERVERS": addresses.kafka, "REDIS__URL": addresses.redis}
    if addresses.registry:
        servers.append(f"Apicurio Registry at {addresses.registry}")
        exports["REGISTRY__URL"] = addresses.registry
    lines = (f"export HEADRACE__{name}={address}" for name, address in exports.items())
    return "\n".join([*servers, "", *lines, "", "Ctrl-C ends them."])


def _print_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
