"""Commands: what is read back is what was sent, and nothing else is a command."""

import msgspec
import pytest

from headrace.state.history import command
from headrace.state.history.command import COMMAND_BYTES_MAX, Command, CommandError

ASKED = Command("c-1", "promote", {"name": "trees"}, by="ops", reason="better", expect_generation=3)


def test_a_command_is_read_as_it_was_sent() -> None:
    assert command.decode(command.encode(ASKED)) == ASKED


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b'{"id": "c-1"}',
        b'{"id": "", "verb": "promote"}',
        b'{"id": "a b", "verb": "promote"}',
        b'{"id": "c-1", "verb": "Promote"}',
        b'{"id": "c-1", "verb": "promote", "args": {"name": 7}}',
        b'{"id": "c-1", "verb": "promote", "expect_generation": 0}',
        msgspec.json.encode({"id": "c-1", "verb": "promote", "reason": "x" * 1_001}),
        b" " * (COMMAND_BYTES_MAX + 1),
    ],
)
def test_bytes_that_are_no_command_are_refused(value: bytes | None) -> None:
    with pytest.raises(CommandError):
        command.decode(value)


def test_a_command_out_of_its_bounds_is_not_sent() -> None:
    with pytest.raises(CommandError):
        command.encode(Command("c 1", "promote"))
