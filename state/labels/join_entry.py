"""One id of the labels' join: what is known of it, as the row that it is in the store.

It is *asked* (predicted, no label yet), *early* (a label, no features yet), *answered* (learned) or *gone* (its wait
has ended without a label). The last two are only remembered, to tell a second label from a first.
"""

from typing import Annotated, Any, Literal

import msgspec

ASKED, EARLY, ANSWERED, GONE = range(4)
WAITING = (ASKED, EARLY)
"""What an entry is; the first two wait."""

# What an entry costs beside the bytes of its id and its record: measured over a million of them.
_ENTRY_BYTES = 450
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


_Time = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Digits = Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,4300}$")]
_Boxed = bool | int | float | str | Annotated[list[_Digits], msgspec.Meta(min_length=1, max_length=1)] | None
_decode = msgspec.msgpack.Decoder(
    tuple[Literal[0, 1, 2, 3], _Time, _Time, _Number, bytes, bytes | None, _Boxed, _Number, _Boxed]
).decode


class Entry(msgspec.Struct, gc=False):
    """What is known of an id. Times are milliseconds: `at_ms` of the event, `logged_ms` of the record.

    Of features it holds the record's `value` and `key` as they came, and the `answer` that was sent with the
    `version` of the model that gave it. `order` is the offset of what waits, a running number of what is over. It is
    `saved` when the store may have a row of its id.
    """

    kind: int
    at_ms: int
    logged_ms: int
    order: int
    value: bytes = b""
    key: bytes | None = None
    answer: Any = None
    version: int = 0
    label: Any = None
    saved: bool = False

    @property
    def said(self) -> Any:
        """The answer that was sent, as the model gave it."""
        return unboxed(self.answer)

    @classmethod
    def of(
        cls, *, at_ms: int, logged_ms: int, order: int, value: bytes, key: bytes | None, answer: Any, version: int
    ) -> "Entry":
        """Make the entry of features that wait for their label."""
        return cls(ASKED, at_ms, logged_ms, order, value, key, answer, version)

    def size(self, id_: str) -> int:
        """Return about how many bytes it takes in memory, with its id."""
        texts = sum(len(part.encode()) for part in (id_, self.label, self.answer) if isinstance(part, str))
        return texts + len(self.value) + len(self.key or b"") + _ENTRY_BYTES

    def row(self) -> bytes:
        """Return the row that the store has of it."""
        return msgspec.msgpack.encode(msgspec.structs.astuple(self)[:-1])

    @classmethod
    def read(cls, row: bytes) -> "Entry":
        """Return the entry of a row that the store has. Raises `seal.UNREADABLE` for one that is none."""
        entry = cls(*_decode(row))
        entry.saved = True
        return entry


def plain(answer: Any) -> Any:
    """Return an answer as MessagePack can hold it: numpy's scalars are what some of River's models answer with."""
    return boxed(answer.item() if hasattr(answer, "item") else answer)


def boxed(value: Any) -> Any:
    """Return a label or an answer as MessagePack can hold it: its integers have 64 bits."""
    return [str(value)] if type(value) is int and not _INT_MIN <= value <= _INT_MAX else value


def unboxed(value: Any) -> Any:
    """Return what `boxed` was given."""
    return int(value[0]) if type(value) is list else value


def same(first: Any, second: Any) -> bool:
    """Tell whether two labels are one: 1 and 1.0 are, 1 and true are not."""
    return first == second and isinstance(first, bool) == isinstance(second, bool)
