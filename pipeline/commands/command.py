"""What all commands share: how they are declared, where they find their configuration, and how they end.

Nothing heavy is imported here, so that `--help` answers at once; whatever a command raises becomes one line that
says what to do next, and an exit code.
"""

import contextlib
import errno
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from headrace.pipeline import console
from headrace.pipeline.console import data
from headrace.pipeline.process import reexec

if TYPE_CHECKING:
    from headrace.pipeline.config.config import Config

EXIT_FAILED = 1
EXIT_AWAY = 69
EXIT_CONFIG = 78
EXIT_INTERRUPTED = 130
DEBUG_VARIABLE = "HEADRACE_DEBUG"

_AWAY_STATUS = 503
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# By name: to import the classes would import River and pydantic with them.
_CONFIG_ERRORS = frozenset({"ConfigError", "ModelError", "SettingsRefused"})

_FLAGS = {"name": "name", "bootstrap_servers": "kafka.bootstrap_servers", "redis_url": "redis.url"}
_SHARED: dict[str, Any] = {
    "config": Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="The configuration to use (default: headrace.toml)."),
    ],
    "name": Annotated[str | None, typer.Option(metavar="NAME", help="The pipeline's name, instead of the file's.")],
    "bootstrap_servers": Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where Kafka is, instead of the file's.")
    ],
    "redis_url": Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where the store is; a password goes better into HEADRACE__REDIS__URL."),
    ],
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which configuration a command works with: the file, and the flags that win over it, by dotted key."""

    file: Path = Path("headrace.toml")
    flags: dict[str, Any] = field(default_factory=dict)

    def load(self) -> "Config":
        """Load it. Raises ConfigError."""
        from headrace.pipeline.config import config  # noqa: PLC0415 late, for `--help`

        loaded = config.load(self.file, flags=self.flags)
        console.hide(loaded.conceal)
        return loaded

    def but(self, given: dict[str, Any]) -> "Chosen":
        """Return the same with the shared options that were given later, which win."""
        flags = {key: given[option] for option, key in _FLAGS.items() if given[option] is not None}
        return Chosen(given["config"] or self.file, {**self.flags, **flags})


def group(text: str) -> typer.Typer:
    """Make a group of commands; the shared options may stand before its commands as well as after."""
    made = typer.Typer(
        help=text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def choose(context: typer.Context, **given: Any) -> None:
        context.obj = (context.obj or Chosen()).but(given)

    version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]
    _declare(choose, [inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=version)])
    made.callback()(choose)
    return made


def command(
    of: typer.Typer, name: str | None = None, *, endless: bool | str = False, lines: bool = False
) -> Callable[[Callable[..., int]], Callable[..., NoReturn]]:
    """Make a function `(chosen, options…) -> exit code` a command, with the options that all commands share.

    `endless` says that an interrupt is how the command ends well: always, or where the option that it names is set.
    `lines` says that what it prints are lines of JSON, with `--json` or without.
    """

    def register(call: Callable[..., int]) -> Callable[..., NoReturn]:
        @functools.wraps(call)
        def run(context: typer.Context, **given: Any) -> NoReturn:
            shared = {option: given.pop(option) for option in _SHARED}
            chosen = (context.obj or Chosen()).but(shared)
            ends_well = endless if isinstance(endless, bool) else bool(given[endless])
            if ends_well:
                # Until the command itself listens: what it imports takes a moment.
                signal.signal(signal.SIGTERM, signal.default_int_handler)

            def heard() -> int:
                data.claim(json=lines or bool(given.get("json")))
                # A stop that has waited for this is an interrupt of the command as any other.
                reexec.hear_signals()
                return call(chosen, **given)

            raise typer.Exit(guard(heard, on_interrupt=0 if ends_well else EXIT_INTERRUPTED))

        _declare(run, list(inspect.signature(call).parameters.values())[1:])
        of.command(name)(run)
        return run

    return register


def guard(call: Callable[[], int], *, on_interrupt: int = EXIT_INTERRUPTED) -> int:
    """Call, and turn whatever it raises into one line on stderr and an exit code."""
    try:
        code = call()
        data.flush()
    except KeyboardInterrupt:
        return on_interrupt
    except BrokenPipeError:
        # The reader has seen enough. What is still buffered must not be flushed into the closed pipe at exit.
        data.drop()
        return 0
    except SystemExit as error:
        return fail(Exited(f"the user's code called exit({error.code!r}) in the middle of the command"))
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return fail(error)
    return code


class Exited(Exception):
    """Raised when the code that a command runs would end its process."""

    status = 400
    hint = "take sys.exit() out of model.py, and of the function that --edit names"


def fail(error: Exception) -> int:
    """Say on stderr what ended a command and what to do next, and return its exit code."""
    hint = getattr(error, "hint", None)
    if hint is not None:
        message = str(error)
    elif isinstance(error, OSError):
        message, hint = _of_machine(error)
    else:
        message = f"unexpected {type(error).__name__}: {error}"
        hint = f"a bug: set {DEBUG_VARIABLE}=1 to see where it came from, and report it"
    # Where even this can't be written, the exit code tells.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"headrace: {message}\n  → {hint}\n")
    if type(error).__name__ in _CONFIG_ERRORS:
        return EXIT_CONFIG
    return EXIT_AWAY if getattr(error, "status", None) == _AWAY_STATUS else EXIT_FAILED


def _of_machine(error: OSError) -> tuple[str, str]:
    """Return what the machine refused, and what to do about it."""
    # The text that is still buffered may raise the same error once more.
    data.drop()
    try:
        Path.cwd()
    except OSError:
        return "the working folder is not there any more", "change to one that is, and run the command again"
    if error.errno in _FULL:
        return f"the output can't be written: {error.strerror}", "make room, or send it elsewhere"
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", "mend that, and run it again"


def _declare(function: Any, own: list[inspect.Parameter]) -> None:
    """Give a function the signature that typer reads: the context, its own options, the shared ones."""
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *(parameter.replace(kind=kind) for parameter in own),
        *(inspect.Parameter(name, kind, default=None, annotation=option) for name, option in _SHARED.items()),
    ]
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _version(asked: bool) -> None:  # noqa: FBT001 typer calls it
    if asked:
        import importlib.metadata  # noqa: PLC0415 late, for `--help`

        typer.echo(f"headrace {importlib.metadata.version('headrace')}")
        raise typer.Exit
