"""A label on its way in: from a message's bytes to an id and its truth, or to a refusal with its reason."""

from collections.abc import Iterator
from typing import Any

import msgspec

from headrace.consumers.record import VALUE_BYTES_MAX, Record
from headrace.consumers.refusal import Refusal, leaf_faults, read_json, refuse_ts, wrong_type


class Label(msgspec.Struct, frozen=True, gc=False):
    """A decoded label: the `id` of its features, the truth, and the event time in ms when it was known, if given."""

    id: str
    label: Any
    ts: int | msgspec.UnsetType = msgspec.UNSET


class LabelDecoder:
    """Turn records of the labels topic into labels, or into refusals that say what is wrong.

    `value_bytes_max` bounds the value in bytes. What a model can learn from it decides, not this.
    """

    def __init__(self, *, value_bytes_max: int = VALUE_BYTES_MAX) -> None:
        self._value_bytes_max = value_bytes_max
        self._decode = msgspec.json.Decoder(Label).decode

    def decode(self, record: Record) -> Label | Refusal:
        """Decode one record. Never raises: whatever the bytes are, the answer is a label or a refusal."""
        label = read_json(record.value, self._decode, bytes_max=self._value_bytes_max, faults=_faults)
        if type(label) is Refusal:
            return label
        assert isinstance(label, Label)
        return refuse_ts(label.ts) or label


def _faults(whole: dict[str, Any]) -> Iterator[Refusal]:
    """Yield what is wrong with a JSON object that should have been a label."""
    for field in ("id", "label"):
        if field not in whole:
            yield Refusal("missing_field", "decode", f"the field `{field}` is missing", field)
            return
    if not isinstance(whole["id"], str):
        yield wrong_type("id", whole["id"], "a string, the id of the features that the label belongs to")
    if "ts" in whole and (isinstance(whole["ts"], bool) or not isinstance(whole["ts"], int)):
        yield wrong_type("ts", whole["ts"], "a whole number of milliseconds since 1970")
    yield from leaf_faults(whole)
