"""Says how records are read with the configuration: the type of each field, and what would be refused, with counts.

`check`, `doctor` and `init --from` use it. Nothing is sent or learned.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from headrace.consumers.record import Event, Record
from headrace.consumers.refusal import NO_KEY, Refusal
from headrace.pipeline import assembly, model_factory
from headrace.pipeline.check.field import type_of
from headrace.pipeline.config.config import Config
from headrace.state.models.label import LabelError

_FIELDS_MAX = 40
_VALUE_CHARACTERS_MAX = 40
ReadLabel = Callable[[Any], Any]


class RecordReport:
    """The outcomes of decoded records. `label` raises LabelError for a label that the model can't learn."""

    def __init__(self, config: Config, *, label: ReadLabel) -> None:
        self._decoder = assembly.decoder(config)
        self._label = label
        self._by_key = config.model.scope == "key"
        self.records = self.good = self.skipped = self.with_id = self.with_ts = self.with_label = 0
        self.refused: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._types: dict[str, Counter[str]] = {}
        self._shown: dict[str, str] = {}

    def read(self, records: Iterable[Record]) -> "RecordReport":
        """Decode records, and count what they are."""
        for record in records:
            self.records += 1
            self._count(self._refused(record, self._decoder.decode(record)), record)
        return self

    def refuse(self, record: Record, refusal: Refusal) -> None:
        """Count a record that is refused before it can be decoded."""
        self.records += 1
        self._count(refusal, record)

    def _refused(self, record: Record, outcome: Any) -> Any:
        """Return the outcome, or the refusal by what comes after the decoder."""
        if not isinstance(outcome, Event):
            return outcome
        if self._by_key and record.key is None:
            return NO_KEY
        if outcome.label is not msgspec.UNSET:
            try:
                self._label(outcome.label)
            except LabelError as error:
                return Refusal("bad_label", "validate", str(error), self._decoder.label_field)
        return outcome

    def _count(self, outcome: Any, record: Record) -> None:
        if isinstance(outcome, Refusal):
            self.refused[outcome.code] += 1
            where = f"{record.partition}:{record.offset}"
            self._examples.setdefault(outcome.code, f"{where}  {outcome.message}")
            return
        if not isinstance(outcome, Event):
            self.skipped += 1
            return
        self.good += 1
        self.with_id += outcome.id is not msgspec.UNSET
        self.with_ts += outcome.ts is not msgspec.UNSET
        self.with_label += outcome.label is not msgspec.UNSET
        for name, value in outcome.features.items():
            self._types.setdefault(name, Counter())["null" if value is None else type_of(value)] += 1
            self._shown.setdefault(name, _short(value))

    @property
    def is_good(self) -> bool:
        """Whether nothing would be refused."""
        return not self.refused

    def fields(self) -> dict[str, dict[str, Any]]:
        """Return the type of each feature, and in how many of the good records it was seen and missing."""
        found = {}
        for name, types in self._types.items():
            seen = types.total() - types["null"]
            found[name] = {"type": _joined(types), "seen": seen, "missing": self.good - seen}
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the report as `check --json` prints it."""
        return {
            "records": self.records,
            "good": self.good,
            "refused": dict(self.refused),
            "skipped": self.skipped,
            "fields": self.fields(),
        }

    def summary(self) -> str:
        """Return one line: how many records are good, skipped and refused."""
        refused = ", ".join(f"{count:,} {code}" for code, count in self.refused.most_common())
        skipped = f", {self.skipped:,} skipped" if self.skipped else ""
        bad = f"refused: {refused}" if refused else "none refused"
        return f"{self.records:,} records: {self.good:,} good{skipped}, {bad}"

    def examples(self) -> list[str]:
        """Return a line for each code: the first record that would be refused with it, and why."""
        return [f"{code}: {self._examples[code]}" for code, _ in self.refused.most_common()]

    def lines(self) -> list[str]:
        """Return the whole report for people."""
        own = [("id", self.with_id), ("ts", self.with_ts), ("label", self.with_label)]
        told = [f"  {name:<24} in {count:,} of {self.good:,}" for name, count in own]
        fields = self.fields()
        for name, field in list(fields.items())[:_FIELDS_MAX]:
            missing = f", missing in {field['missing']:,}" if field["missing"] else ""
            told.append(f"  {name:<24} {field['type']}{missing}, for example {self._shown[name]}")
        if len(fields) > _FIELDS_MAX:
            told.append(f"  and {len(fields) - _FIELDS_MAX:,} more features (--json lists all)")
        return [self.summary(), *(f"  would be refused: {line}" for line in self.examples()), *told]


def label_of(config: Config) -> ReadLabel:
    """Return the function by which the configured model reads a label. Raises ModelError."""
    return model_factory.builder(config)().label


def _joined(types: Counter[str]) -> str:
    kinds = set(types) - {"null"}
    if kinds == {"integer", "number"}:
        return "number"
    return " or ".join(sorted(kinds)) or "null"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _VALUE_CHARACTERS_MAX else f"{text[:_VALUE_CHARACTERS_MAX]}…"
