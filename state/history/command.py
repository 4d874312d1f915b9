"""A command of the operator, as the control topic holds it. Anybody may have written the bytes, so each is checked."""

from typing import Annotated

import msgspec

from headrace.state.seal import UNREADABLE

COMMAND_BYTES_MAX = 65_536
"""The largest command, in bytes."""

CommandId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
ShortText = Annotated[str, msgspec.Meta(max_length=1_000)]
Arguments = Annotated[dict[ShortText, ShortText], msgspec.Meta(max_length=16)]
Verb = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{1,20}$")]


class CommandError(Exception):
    """Raised when bytes are not a command."""

    status = 400
    hint = "send commands with `headrace model`, which writes them in the right form"


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked for: the `verb` with its `args`, `by` whom, and for what `reason`.

    The `id` makes two records the same command. With `expect_generation` the command is refused where another
    generation answers.
    """

    id: CommandId
    verb: Verb
    args: Arguments = {}
    by: ShortText = ""
    reason: ShortText = ""
    expect_generation: Annotated[int, msgspec.Meta(ge=1, le=2**62)] | None = None


def encode(command: Command) -> bytes:
    """Return the bytes of a command. Raises CommandError where a field is out of its bounds."""
    value = msgspec.json.encode(command)
    decode(value)
    return value


def decode(value: bytes | None) -> Command:
    """Return the command in the value of a record. Raises CommandError."""
    if value is None or len(value) > COMMAND_BYTES_MAX:
        raise CommandError(f"a command has 1 to {COMMAND_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(value, type=Command)
    except UNREADABLE as error:
        raise CommandError(f"it is no command: {error}") from error
