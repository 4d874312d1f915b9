"""The frame around every command: its shared options, its configuration, and its exit code.

A command prints an error as two lines and ends with an exit code. The first line states the problem, the second the
next step. This module imports no slow library, so that `--help` answers at once.
"""

import errno
import functools
import inspect
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from headrace.pipeline import code_cache, console
from headrace.pipeline.console import data
from headrace.pipeline.exit_code import EXIT_CONFIG, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OF_STATUS
from headrace.pipeline.process import reexec

if TYPE_CHECKING:
    from headrace.pipeline.config.config import Config

DEBUG_VARIABLE = "HEADRACE_DEBUG"

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Compared by name: an import of these classes would also import River and pydantic.
_CONFIG_ERRORS = frozenset({"ConfigError", "ModelError", "SettingsRefused"})

_FLAGS = {"name": "name", "bootstrap_servers": "kafka.bootstrap_servers", "redis_url": "redis.url"}
_SHARED: dict[str, Any] = {
    "config": Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Configuration file (default: headrace.toml)."),
    ],
    "name": Annotated[str | None, typer.Option(metavar="NAME", help="Name of the pipeline, instead of the file's.")],
    "bootstrap_servers": Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Kafka brokers, instead of the file's.")
    ],
    "redis_url": Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of the store, instead of the file's. A password is safer in HEADRACE__REDIS__URL.",
        ),
    ],
}


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """The configuration of a command: the file, and the flags that override it, by dotted key.

    `loaded` has the configurations that were loaded, the newest last.
    """

    file: Path = Path("headrace.toml")
    flags: dict[str, Any] = field(default_factory=dict)
    is_named: bool = False
    """Whether the user has named the file."""
    loaded: list["Config"] = field(default_factory=list)

    def load(self) -> "Config":
        """Load the configuration. Raises ConfigError."""
        from headrace.pipeline.config import config  # noqa: PLC0415 slow to import, and `--help` does without it

        loaded = config.load(self.file, flags=self.flags)
        console.hide(loaded.conceal)
        self.loaded.append(loaded)
        return loaded

    def explained(self, error: Exception) -> Exception:
        """Return an error with the address of the server that it is about, and the key that set it."""
        if not self.loaded:
            return error
        from headrace.pipeline import connection  # noqa: PLC0415 needed only after an error

        return connection.explained(error, self.loaded[-1])

    def overridden(self, options: dict[str, Any]) -> "ConfigSource":
        """Return a source in which shared options override the file and the flags so far."""
        flags = {key: options[option] for option, key in _FLAGS.items() if options[option] is not None}
        is_named = self.is_named or options["config"] is not None
        return ConfigSource(options["config"] or self.file, {**self.flags, **flags}, is_named)


def group(text: str) -> typer.Typer:
    """Create a group of commands. The shared options may stand before its commands or after them."""
    app = typer.Typer(
        help=text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def read_options(context: typer.Context, **options: Any) -> None:
        context.obj = (context.obj or ConfigSource()).overridden(options)

    version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]
    own = [inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=version)]
    _declare(read_options, own)
    app.callback()(read_options)
    return app


class WaitingCommand(TyperCommand):
    """A command whose option `--wait` may have the value `done`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line."""
        named = {"--wait=done": "--wait-done", "--wait=taken": "--wait"}
        return super().parse_args(ctx, [named.get(word, word) for word in args])


def command(
    of: typer.Typer, name: str | None = None, *, endless: bool | str = False, lines: bool = False, waits: bool = False
) -> Callable[[Callable[..., int]], Callable[..., NoReturn]]:
    """Register a function `(source, options…) -> exit code` as a command that also takes the shared options.

    `endless` means that the command runs until an interrupt and then exits 0: True for always, or the name of the
    option that asks for it. `lines` means that the command prints lines of JSON even without `--json`, and `waits` that
    it takes `--wait=done`.
    """

    def register(call: Callable[..., int]) -> Callable[..., NoReturn]:
        @functools.wraps(call)
        def run(context: typer.Context, **options: Any) -> NoReturn:
            shared = {option: options.pop(option) for option in _SHARED}
            source = (context.obj or ConfigSource()).overridden(shared)
            is_endless = endless if isinstance(endless, bool) else bool(options[endless])
            if is_endless:
                # A SIGTERM may come while the command still imports its modules, before it has its own handler.
                signal.signal(signal.SIGTERM, signal.default_int_handler)

            def call_command() -> int:
                code_cache.use()
                data.claim(json=lines or bool(options.get("json")))
                # A signal that was held back until now interrupts the command like any later one.
                reexec.hear_signals()
                try:
                    return call(source, **options)
                except Exception as error:
                    explained = source.explained(error)
                    if explained is error:
                        raise
                    raise explained from error

            raise typer.Exit(guard(call_command, on_interrupt=0 if is_endless else EXIT_INTERRUPTED))

        _declare(run, list(inspect.signature(call).parameters.values())[1:])
        of.command(name, cls=WaitingCommand if waits else None)(run)
        return run

    return register


def guard(call: Callable[[], int], *, on_interrupt: int = EXIT_INTERRUPTED) -> int:
    """Call a function, and turn an exception into a message on stderr and an exit code."""
    try:
        code = call()
        data.flush()
    except KeyboardInterrupt:
        return on_interrupt
    except BrokenPipeError:
        # The reader has closed the pipe. A flush of the buffer at exit would raise the same error again.
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
    """Raised when the user's code calls `sys.exit()` inside a command."""

    status = 400
    hint = "take sys.exit() out of model.py, and out of the function that --edit names"


def fail(error: Exception) -> int:
    """Write the error and its hint to stderr, and return the exit code."""
    hint = getattr(error, "hint", None)
    if hint is not None:
        message = str(error)
    elif isinstance(error, OSError):
        message, hint = _system_error(error)
    else:
        message = f"unexpected {type(error).__name__}: {error}"
        hint = f"a bug: set {DEBUG_VARIABLE}=1 to see where it came from, and report it"
    console.complain(message, hint)
    for other in getattr(error, "others", ()):
        console.complain(str(other), other.hint)
    if type(error).__name__ in _CONFIG_ERRORS:
        return EXIT_CONFIG
    return EXIT_OF_STATUS.get(getattr(error, "status", 0), EXIT_FAILED)


def _system_error(error: OSError) -> tuple[str, str]:
    """Return the message and the hint for an error of the operating system."""
    # A flush of the buffered text could raise the same error again.
    data.drop()
    try:
        Path.cwd()
    except OSError:
        return "the working folder no longer exists", "change to a folder that exists, and run the command again"
    if error.errno in _FULL:
        return f"the output can't be written: {error.strerror}", "free some space, or write it to another place"
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", "fix it, and run it again"


def _declare(function: Any, own: list[inspect.Parameter]) -> None:
    """Give a function the signature that typer reads: the context, its own options, and the shared options."""
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
        import importlib.metadata  # noqa: PLC0415 slow to import, and `--help` does without it

        typer.echo(f"headrace {importlib.metadata.version('headrace')}")
        raise typer.Exit
