"""Says what a flood of bad records is about: which field or function is wrong, with the reason of one record."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from headrace.pipeline.engine.dead_letter import DeadLetter

_MESSAGE_MAX = 300
_GO_ON = "then start again"
_LET_THROUGH = "or set dlq.flood_guard = false to send them to the dead letters"
# Codes for which not the producer of the records is to blame.
_OWN_FAULTS = {
    "learn_failed": ("the model raises an error on nearly every record", "correct the code of the model"),
    "transform_failed": ("records.transform fails on nearly every record", "correct the function"),
}


class FloodError(Exception):
    """Raised with --until-end when a flood of bad records stops the stream, which would then never end."""

    status = 400

    def __init__(self, flood: "Flood") -> None:
        super().__init__(flood.reason)
        self.hint = f"{flood.remedy}, {_LET_THROUGH}"


class Flood(msgspec.Struct, frozen=True):
    """What is wrong with nearly every record, with an example, and what is to be done about it."""

    what: str
    remedy: str

    @property
    def reason(self) -> str:
        """What is wrong."""
        return f"{self.what}; none of this batch was dead-lettered"

    def __str__(self) -> str:
        """Say what is wrong and what to do."""
        return f"{self.reason}: {self.remedy}, {_GO_ON}"


def flood_of(dead_letters: Sequence[DeadLetter]) -> Flood:
    """Describe a flood by the most frequent reason of these dead letters, of which there is at least one."""
    (code, field), _ = Counter((one.refusal.code, one.refusal.field) for one in dead_letters).most_common(1)[0]
    example = next(one for one in dead_letters if (one.refusal.code, one.refusal.field) == (code, field))
    record, message = example.record, " ".join(example.refusal.message.split())
    shown = message if len(message) <= _MESSAGE_MAX else f"{message[:_MESSAGE_MAX]}…"
    where = f"{example.topic}[{record.partition}]@{record.offset}: {shown}"
    if code in _OWN_FAULTS:
        what, remedy = _OWN_FAULTS[code]
        return Flood(f"{what}, for example on {where}", remedy)
    about = f"{code} in {field}" if field else code
    what = f"flood of bad records ({about}): nearly every record is refused, for example {where}"
    return Flood(what, "fix their producer, or change [records] and [schema]")
