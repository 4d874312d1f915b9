"""The entry of one id in the join of features and labels; the store has it as a row.

An entry is *asked* (predicted, waits for its label), *early* (a label that waits for its features), *answered*
(learned), or *gone* (its wait ended without a label). The last two are kept to recognise a second label.
"""

from typing import Annotated, Any, Literal

import msgspec

from headrace.state.shard_model import MODEL

ASKED, EARLY, ANSWERED, GONE = range(4)
WAITING = (ASKED, EARLY)
"""The kinds of entries; the first two wait."""

# The memory of an entry besides its id and its record, measured with a million of them.
ENTRY_BYTES = 450
# The memory of one of several models' answers, besides the name and a text.
ANSWER_BYTES = 150
# An entry has room for parts of this length. A verdict with its score is always shorter.
_SHORT_BYTES = 64
RAISED: list[str] = []
"""Stands for the answer of a model that raised on the features; it never learns a label for them."""
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


_Time = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Boxed = bool | int | float | str | Annotated[list[str], msgspec.Meta(min_length=1, max_length=2)] | None
_Answer = bool | int | float | str | Annotated[list[str], msgspec.Meta(max_length=2)] | None
_Answers = bool | int | float | str | Annotated[list[str], msgspec.Meta(max_length=2)] | dict[str, _Answer] | None
_decode = msgspec.msgpack.Decoder(
    tuple[Literal[0, 1, 2, 3], _Time, _Time, _Number, bytes, bytes | None, _Answers, _Number, _Boxed]
).decode


class Entry(msgspec.Struct, gc=False):
    """The entry of an id. Times are milliseconds: `at_ms` of the event, `logged_ms` of the record.

    An entry of features has the record's `value` and `key`, and the `answer` of the model, with the `version` of the
    model that gave it. If there are other models than `MODEL`, the answer has those of all models by name. `order` is
    the record's offset while the entry waits, and a running number afterwards. `saved` is true when the store may have
    a row of this id.
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

    def answer_of(self, model: str) -> Any:
        """Return the answer of a model, as it gave it: None if it gave none, and `RAISED` where it raised instead."""
        if type(self.answer) is dict:
            return unboxed(self.answer.get(model))
        return unboxed(self.answer) if model == MODEL else None

    @classmethod
    def of(
        cls, *, at_ms: int, logged_ms: int, order: int, value: bytes, key: bytes | None, answer: Any, version: int
    ) -> "Entry":
        """Make the entry of features that wait for their label."""
        return cls(ASKED, at_ms, logged_ms, order, value, key, answer, version)

    def size(self, id_: str) -> int:
        """Return about the memory of the entry and its id, in bytes.

        The answer of a single model does not count, unless it is long: it may come later.
        """
        texts = sum(len(part.encode()) for part in (id_, self.label) if isinstance(part, str))
        texts += sum(map(_parts_bytes, (self.answer, self.label)))
        if type(self.answer) is dict:
            named = (part for pair in self.answer.items() for part in pair if isinstance(part, str))
            texts += sum(map(_parts_bytes, self.answer.values()))
            texts += sum(len(part.encode()) for part in named) + ANSWER_BYTES * len(self.answer)
        return texts + len(self.value) + len(self.key or b"") + ENTRY_BYTES

    def row(self) -> bytes:
        """Return the entry's row for the store."""
        return msgspec.msgpack.encode(msgspec.structs.astuple(self)[:-1])

    @classmethod
    def read(cls, row: bytes) -> "Entry":
        """Return the entry of a row from the store. Raises an error of `seal.UNREADABLE` for an invalid one."""
        entry = cls(*_decode(row))
        answers = entry.answer.values() if type(entry.answer) is dict else (entry.answer,)
        for value in (entry.label, *answers):
            unboxed(value)
        entry.saved = True
        return entry


def _parts_bytes(value: Any) -> int:
    """Return the bytes of what `boxed` made of a value with parts; 0 for a short one, such as an `Anomaly`."""
    size = len(value[1].encode()) if type(value) is list and len(value) > 1 else 0
    return size if size > _SHORT_BYTES else 0


def plain(answer: Any) -> Any:
    """Return an answer for MessagePack; some of River's models answer with numpy's scalars."""
    return boxed(answer.item() if hasattr(answer, "item") else answer)


def boxed(value: Any) -> Any:
    """Return a label or an answer for MessagePack.

    An integer that does not fit 64 bits becomes a list of its text. What has parts, such as a value for each target,
    becomes a list of an empty text and its JSON.
    """
    kind = type(value)
    if kind is int and not _INT_MIN <= value <= _INT_MAX:
        return [str(value)]
    return ["", _encode_parts(value).decode()] if isinstance(value, dict | list | tuple) else value


def unboxed(value: Any) -> Any:
    """Return the value that `boxed` got; an `Anomaly` comes back as a list. Raises msgspec.DecodeError."""
    if type(value) is not list or not value:
        return value
    return _decode_parts(value[1]) if len(value) > 1 else int(_read_digits(value)[0])


def _read_digits(value: list[str]) -> list[str]:
    return msgspec.convert(value, _Digits)


def _scalar(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"an answer can't hold a {type(value).__name__}")


_encode_parts = msgspec.json.Encoder(enc_hook=_scalar).encode
_decode_parts = msgspec.json.Decoder(list[Any] | dict[str, Any]).decode
_Digits = list[Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,4300}$")]]


def same(first: Any, second: Any) -> bool:
    """Tell whether two labels are the same: 1 and 1.0 are, 1 and true are not."""
    return first == second and isinstance(first, bool) == isinstance(second, bool)
