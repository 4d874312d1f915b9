"""`headrace up`: the embedded Kafka and Valkey alone, until Ctrl-C."""

import json as json_format
import signal
import sys
from pathlib import Path

from headrace.pipeline.console import data
from headrace.pipeline.embedded import Addresses, EmbeddedError, Stack
from headrace.pipeline.exit_code import EXIT_AWAY


def up(*, json: bool, data_dir: Path | None) -> int:
    """Run the stack until SIGINT or SIGTERM; print its addresses; return the exit code."""
    # Both signals must also interrupt the start, which may be in the middle of a download.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Stack(data_dir=data_dir, progress=_print_error) as stack:
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
    return json_format.dumps({"kafka": addresses.kafka, "redis": addresses.redis})


def as_text(addresses: Addresses) -> str:
    """Return the addresses for people, with two lines to paste into a shell."""
    kafka = "Apache Kafka" if addresses.kind == "kafka" else "mock Kafka"
    return (
        f"{kafka} at {addresses.kafka}\n"
        f"Valkey at {addresses.redis}\n"
        "\n"
        f"export HEADRACE__KAFKA__BOOTSTRAP_SERVERS={addresses.kafka}\n"
        f"export HEADRACE__REDIS__URL={addresses.redis}\n"
        "\n"
        "Ctrl-C ends both."
    )


def _print_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
