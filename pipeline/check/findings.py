"""Decides from sample records how `[records]`, `[schema]` and the model should be, and says why.

`init --from` prints the findings and writes them into a project.
"""

import glob
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from headrace.consumers.formats.writer_schema import Absence
from headrace.pipeline.check.field import FieldFacts, facts_of
from headrace.pipeline.check.model_source import ModelPlan, PlannedTask
from headrace.pipeline.check.role import (
    FieldRole,
    TsUnit,
    find_id,
    find_labels,
    find_ts,
    role_of,
    unit_of,
)
from headrace.pipeline.check.shape import RecordShape, SampleRecord, features_in, kinds_of, shape_of
from headrace.pipeline.hinted_error import HintedError

_CLASSES_MAX = 10
_SHOWN_MAX = 20
_NO_LABEL = (
    "none was found, so the model is an anomaly detector, which learns without. For a classifier or a regressor, name "
    "the label with --label PATH, or the topic of labels that come later: topics.labels"
)
_BUCKETS_MIN, _BUCKETS_MAX = 256, 65_536


class SampleRefused(HintedError):
    """Raised when no project can be made from the sample, or when an option does not fit it."""


class Choices(msgspec.Struct, frozen=True):
    """The paths that the user has decided; None means that the sample decides."""

    id: str | None = None
    ts: str | None = None
    label: str | None = None


class Findings(msgspec.Struct, frozen=True):
    """The result: keys of `[records]` and their values, declared features, the model, and lines that say why.

    `schema` has the declaration of each feature, `notes` pairs of a subject and a sentence.
    """

    records: dict[str, Any]
    schema: dict[str, dict[str, Any]]
    model: ModelPlan
    notes: list[tuple[str, str]]


class _Sample:
    """The records that have features, and the facts of all their fields."""

    def __init__(self, records: Sequence[SampleRecord], shape: RecordShape, optional: Mapping[str, Absence]) -> None:
        self.shape = shape
        found = [(r, f) for r in records if (f := features_in(r.value, shape.features)) is not None]
        self.records = [record for record, _ in found]
        self.features = [features for _, features in found]
        self.facts = facts_of([record.value for record in self.records])
        self.prefix = f"{shape.features}." if shape.features else ""
        for path, field in self.facts.items():
            names = path.split(".")
            # A value without the features has no field of them: `empty` says what becomes of it.
            above = shape.features.count(".") + 1 if path.startswith(self.prefix) and shape.features else 0
            outer = (optional.get(".".join(names[:size])) for size in range(above + 1, len(names) + 1))
            field.absence = next((how for how in outer if how is not None), None)
        self.notes: list[tuple[str, str]] = []

    @property
    def candidates(self) -> dict[str, FieldFacts]:
        """The fields that may be the id or the label: of a change, only those of the table's row."""
        return {
            path: field
            for path, field in self.facts.items()
            if not self.shape.has_deletes or path.startswith(self.prefix)
        }

    def has(self, path: str) -> bool:
        """Return whether a path leads to a value in some record."""
        if path.startswith("$headers."):
            return any(path.removeprefix("$headers.") in record.headers for record in self.records)
        return path in {"$key", "$timestamp"} or (path in self.facts and self.facts[path].seen > 0)


def infer(
    records: Sequence[SampleRecord],
    choices: Choices | None = None,
    *,
    without_value: int = 0,
    optional: Mapping[str, Absence] | None = None,
) -> Findings:
    """Return the findings. Raises SampleRefused.

    `without_value` is the number of records that have no value. `optional` has the fields that their schemas do not
    demand, by path.
    """
    choices = choices or Choices()
    if not records:
        raise SampleRefused("no record of the sample is a JSON object", hint="look at them: headrace check TOPIC")
    sample = _Sample(records, shape_of(records), optional or {})
    if not sample.records:
        raise SampleRefused(
            "no record of the sample has features", hint="name another topic, or read more: --records N"
        )
    keys = _decide_form(sample, records, without_value)
    keys["id"] = _decide_id(sample, choices.id)
    keys["ts"], unit = _decide_ts(sample, choices.ts)
    keys["label"] = label = _decide_label(sample, choices.label)
    if unit is not None:
        keys["ts_unit"] = unit
    features, excluded = _features(sample, {keys["id"], keys["ts"], label}, flatten=keys["flatten"])
    roles = {name: role_of(field, len(sample.records)) for name, field in features.items()}
    kept = {name: role for name, role in roles.items() if role.encoding != "left out"}
    excluded += [glob.escape(name) for name in roles if name not in kept]
    keys["exclude"] = excluded
    if any(role.encoding == "parsed number" for role in kept.values()):
        keys["numbers"] = "parse"
    labels = sample.facts.get(label)
    own = [field for path in (keys["id"], keys["ts"], label) if (field := sample.facts.get(path)) is not None]
    _decide_nulls(sample, keys, [*own, *(features[name] for name in kept)])
    _tell_features(sample, roles)
    return Findings(
        {key: value for key, value in keys.items() if value != _DEFAULTS[key]},
        {name: _declared(features[name], role, len(sample.records)) for name, role in kept.items()},
        _plan(sample, labels, kept, features),
        sample.notes,
    )


def _decide_nulls(sample: _Sample, keys: dict[str, Any], read: Sequence[FieldFacts]) -> None:
    if any(field.nulls for field in read):
        keys["nulls"] = "skip"
        sample.notes.append(("nulls", "some fields are null: they count as not there"))
    elif any(field.absence == "null" for field in read):
        keys["nulls"] = "skip"
        sample.notes.append(("nulls", "the schema lets some fields be null: they count as not there"))


_DEFAULTS: dict[str, Any] = {
    "features": "features", "id": "id", "ts": "ts", "ts_unit": "ms", "label": "label", "exclude": [],
    "flatten": False, "nulls": "refuse", "empty": "refuse", "numbers": "strict",
}  # fmt: skip


def _decide_form(sample: _Sample, records: Sequence[SampleRecord], without_value: int) -> dict[str, Any]:
    keys: dict[str, Any] = {"features": sample.shape.features, "flatten": False}
    where = f"they are below `{keys['features']}`" if keys["features"] else "the whole value holds them"
    sample.notes.append(("form", f"{sample.shape.name}; features: {where}"))
    if any(isinstance(part, dict | list) for features in sample.features for part in features.values()):
        keys["flatten"] = True
        sample.notes.append(("flatten", "some features are inside of others: their names are paths with dots"))
    left = without_value + len(records) - len(sample.records)
    if left or sample.shape.has_deletes:
        keys["empty"] = "skip"
        sample.notes.append(("empty", f"{left:,} records have no features, as deletes: such records are skipped"))
    if (kinds := kinds_of([record.value for record in sample.records], sample.facts)) is not None:
        told = ", ".join(f"{name} {count / len(sample.records):.0%}" for name, count in kinds[1].items())
        sample.notes.append(("kinds", f"`{kinds[0]}` tells several kinds of records apart: {told}"))
    return keys


def _decide_id(sample: _Sample, chosen: str | None) -> str:
    if chosen is not None:
        return _checked(sample, "--id", chosen)
    if sample.shape.id is not None and sample.has(sample.shape.id):
        sample.notes.append(("id", f"{sample.shape.id}, as this form has it"))
        return sample.shape.id
    found = find_id(sample.candidates, len(sample.records))
    if found is None:
        sample.notes.append(("id", "none was found: a record is named by its topic, partition and offset"))
        return ""
    sample.notes.append(("id", f"{found.name}: it is in every record, and no value came twice"))
    return found.name


def _decide_ts(sample: _Sample, chosen: str | None) -> tuple[str, TsUnit | None]:
    path = sample.shape.ts if chosen is None else _checked(sample, "--ts", chosen)
    if path == "":
        return "", None
    if path is not None and path.startswith("$") and sample.has(path):
        sample.notes.append(("time", f"{path}, as this form has it" if chosen is None else path))
        return path, "iso" if path.startswith("$headers.") else None
    if path is not None and path in sample.facts:
        unit = unit_of(sample.facts[path])
        if unit is None and chosen is not None:
            raise SampleRefused(
                f"--ts {path}: its values are not times since 2000, for example {_example(sample.facts[path])}",
                hint="name a field with RFC 3339 text and its zone, or with s, ms, us or ns since 1970",
            )
        if unit is not None:
            return _tell_ts(sample, path, unit)
    found = find_ts(sample.facts if not sample.shape.has_deletes else sample.candidates, len(sample.records))
    if found is None:
        sample.notes.append(("time", "none was found: the time of the Kafka message counts"))
        return "", None
    return _tell_ts(sample, found[0].name, found[1])


def _tell_ts(sample: _Sample, path: str, unit: TsUnit) -> tuple[str, TsUnit]:
    words = "RFC 3339 text" if unit == "iso" else f"{unit} since 1970"
    sample.notes.append(("time", f"{path}, in {words}"))
    return path, unit


def _decide_label(sample: _Sample, chosen: str | None) -> str:
    if chosen is not None:
        return _checked(sample, "--label", chosen)
    found = find_labels(sample.candidates.values())
    if not found:
        return ""
    if len(found) > 1:
        others = ", ".join(field.name for field in found[1:])
        sample.notes.append(("label", f"{others} could be the label as well: choose with --label"))
    return found[0].name


def _checked(sample: _Sample, option: str, path: str) -> str:
    if path and not sample.has(path):
        near = ", ".join(list(sample.facts)[:_SHOWN_MAX])
        raise SampleRefused(f"{option} {path}: no record of the sample has it", hint=f"the paths are {near}")
    return path


def _features(sample: _Sample, own: set[str], *, flatten: bool) -> tuple[dict[str, FieldFacts], list[str]]:
    """Return the facts of the features by their names, and patterns of the arrays that are left out."""
    arrays = _uneven_arrays(sample.features) if flatten else {}
    for path, (least, most) in arrays.items():
        sample.notes.append(("left out", f"{path}: an array whose length changes, from {least} to {most}"))
    found = {
        name: field
        for path, field in sample.facts.items()
        if path.startswith(sample.prefix) and path not in own and (name := path.removeprefix(sample.prefix))
    }
    kept = {name: field for name, field in found.items() if not any(name.startswith(f"{array}.") for array in arrays)}
    return kept, [f"{glob.escape(path)}.*" for path in arrays]


def _uneven_arrays(features: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return the arrays whose length changes, by path, with the least and the greatest length."""
    lengths: dict[str, set[int]] = defaultdict(set)

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for name, part in value.items():
                walk(part, f"{path}.{name}" if path else name)
        elif isinstance(value, list):
            # What is inside of an array belongs to it.
            lengths[path].add(len(value))

    for one in features:
        walk(one, "")
    return {path: (min(found), max(found)) for path, found in lengths.items() if len(found) > 1}


def _declared(field: FieldFacts, role: FieldRole, records: int) -> dict[str, Any]:
    """Return the declaration of a feature. An integer may have a fraction later, so it is declared as a number."""
    kind = {"number": "number", "parsed number": "number", "code": "integer"}.get(role.encoding, "string")
    declared: dict[str, Any] = {"type": "boolean" if field.type == "boolean" else kind}
    if field.seen < records or field.absence is not None:
        declared["required"] = False
    return declared


def _tell_features(sample: _Sample, roles: Mapping[str, FieldRole]) -> None:
    by_encoding: dict[str, list[str]] = defaultdict(list)
    for name, role in roles.items():
        by_encoding[role.encoding].append(name)
    words = {
        "number": "numbers, scaled",
        "parsed number": "numbers that are written as text, parsed and scaled",
        "one-hot": "texts with few values, one-hot encoded",
        "hashed": "texts with many values, hashed",
        "code": "numbers that name something, one-hot encoded",
    }
    for encoding, meaning in words.items():
        if names := by_encoding[encoding]:
            more = f" and {len(names) - _SHOWN_MAX:,} more" if len(names) > _SHOWN_MAX else ""
            sample.notes.append(("features", f"{meaning}: {', '.join(names[:_SHOWN_MAX])}{more}"))
    left = by_encoding["left out"]
    sample.notes += [("left out", f"{name}: {roles[name].reason}") for name in left[:_SHOWN_MAX]]
    if len(left) > _SHOWN_MAX:
        sample.notes.append(("left out", f"{len(left) - _SHOWN_MAX:,} more fields, for the same reasons"))
    if len(left) == len(roles):
        sample.notes.append(("features", "none is left: take fields out of records.exclude, or write a transform"))


def _plan(
    sample: _Sample, labels: FieldFacts | None, kept: Mapping[str, FieldRole], features: Mapping[str, FieldFacts]
) -> ModelPlan:
    names = {
        kind: [name for name, role in kept.items() if role.encoding == kind] for kind in ("one-hot", "hashed", "code")
    }
    most = sum(features[name].distinct for name in names["hashed"])
    buckets = _BUCKETS_MIN
    while names["hashed"] and buckets < min(8 * most, _BUCKETS_MAX):
        buckets *= 2
    return ModelPlan(
        task=_task(sample, labels),
        has_numbers=len(kept) > sum(map(len, names.values())),
        one_hot=names["one-hot"],
        hashed=names["hashed"],
        codes=names["code"],
        buckets=buckets,
        features=len(kept),
    )


def _task(sample: _Sample, labels: FieldFacts | None) -> PlannedTask:
    if labels is None or not labels.seen:
        sample.notes.append(("label", _NO_LABEL))
        return "anomaly"
    shown = ", ".join(f"{_text(value)} {n / labels.seen:.0%}" for (_, value), n in labels.values.most_common(5))
    task, why = _task_of(labels)
    share = "" if labels.seen == len(sample.records) else f", in {labels.seen / len(sample.records):.0%} of the records"
    values = f"{shown}{', …' if labels.distinct > 5 else ''}" if task != "regression" else _range(labels)  # noqa: PLR2004
    sample.notes.append(("label", f"{labels.name}{share}: {values}; {why}"))
    return task


def _task_of(labels: FieldFacts) -> tuple[PlannedTask, str]:
    values = {value for _, value in labels.values}
    if values <= {0, 1}:
        return "binary", "two classes, so the model is a binary classifier"
    if labels.type == "mixed":
        raise SampleRefused(
            f"the label {labels.name} has values of several types: {', '.join(labels.types)}",
            hint="name another field with --label, or give it one type with records.transform",
        )
    if labels.type == "string":
        return "multiclass", f"{len(values)} texts, so the model is a classifier"
    if labels.type == "integer" and len(values) <= _CLASSES_MAX:
        return "multiclass", f"only {len(values)} whole numbers, so they are taken as classes; use a regressor if not"
    return "regression", "numbers, so the model is a regressor"


def _range(labels: FieldFacts) -> str:
    return f"from {labels.smallest:g} to {labels.largest:g}"


def _example(field: FieldFacts) -> str:
    return next((_text(value) for _, value in field.values), "null")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
