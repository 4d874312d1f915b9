"""The tables of the configuration that say how records and labels are read, and what a prediction has."""

import math
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from headrace.consumers.mapping import RecordMapping, TimeUnit, check_pattern, path_of
from headrace.pipeline.config.sections import Seconds, Section
from headrace.producers.prediction import PredictionForm

RecordFormat = Literal["json", "avro", "protobuf", "json-schema"]


class LabelsConfig(Section):
    """How labels that come later (topics.labels) are read, and how features wait. Limits are for each partition."""

    format: RecordFormat | Literal[""] = Field(
        "", description="Format of the labels topic's values, as records.format. Empty: the same as the records have."
    )
    id: str = Field("id", min_length=1, description="Path of the id in a record of the labels topic.")
    label: str = Field("label", min_length=1, description="Path of the label in a record of the labels topic.")
    wait: Seconds = Field(86_400.0, description="How long features wait for their label, in event time (ts).")
    default: bool | int | float | str | None = Field(
        None, description="Label to learn if none came in time. Without it, features without a label are dropped."
    )
    corrections: bool = Field(False, description="Also learn a second label that differs from the first.")
    waiting_max: int = Field(1_000_000, ge=1, description="Maximum number of features and early labels that wait.")
    bytes_max: int = Field(1_000_000_000, ge=100_000, description="Maximum memory for them, in bytes.")
    remembered_max: int = Field(
        100_000, ge=0, description="Number of finished ids to remember, so that a second or late label is recognised."
    )

    @field_validator("id", "label")
    @classmethod
    def _paths(cls, value: str) -> str:
        path_of(value)
        return value

    @field_validator("default")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("it must be a finite number: no model can learn another")
        return value


class RecordsConfig(Section):
    """How a record is read. A path has a dot between names; $headers.NAME, $key and $timestamp are paths, too."""

    format: RecordFormat = Field(
        "json", description="Format of the values: json, or with a schema registry avro, protobuf or json-schema."
    )
    features: str = Field("features", description='Path of the object with the features. "" is the whole value.')
    id: str = Field("id", description='Path of the id. "" is none.')
    ts: str = Field("ts", description='Path of the event time. "" is none.')
    ts_unit: TimeUnit = Field("ms", description="Unit of the event time: s, ms, us, ns, or iso for RFC 3339 text.")
    label: str = Field("label", description='Path of the label. "" is none.')
    include: tuple[str, ...] = Field((), description='Shell patterns of the features to take, as "card.*". Empty: all.')
    exclude: tuple[str, ...] = Field((), description="Shell patterns of the features to leave out, unchecked.")
    flatten: bool = Field(False, description="Take objects and arrays apart: card.country and history.0 are features.")
    nulls: Literal["refuse", "skip"] = Field("refuse", description="A null is refused, or counts as not there (skip).")
    empty: Literal["refuse", "skip"] = Field(
        "refuse", description="A record without a value or features, as a delete, is refused or skipped."
    )
    numbers: Literal["strict", "parse"] = Field(
        "strict", description='parse: text such as "12.50" is a number, for features that [schema] declares as numeric.'
    )
    transform: str = Field(
        "",
        pattern=r"^([\w.]+:\w+)?$",
        description="Function that makes the default form of a decoded value, as module:function, or None to skip it.",
    )
    value_bytes_max: int = Field(
        262_144,
        ge=1,
        le=64_000_000,
        description="Maximum size of a record's value, in bytes. A larger one is a dead letter: too_large.",
    )

    @property
    def mapping(self) -> RecordMapping:
        """The mapping of the features topic."""
        return RecordMapping(**{name: getattr(self, name) for name in RecordMapping.__struct_fields__})

    def labels_mapping(self, labels: LabelsConfig) -> RecordMapping:
        """Return the mapping of the labels topic: times, nulls and empty values are read in the same way."""
        return RecordMapping(
            id=labels.id, label=labels.label, ts=self.ts, ts_unit=self.ts_unit, nulls=self.nulls, empty=self.empty
        )

    @field_validator("features", "id", "ts", "label")
    @classmethod
    def _paths(cls, value: str, info: ValidationInfo) -> str:
        if path_of(value).source not in {"nowhere", "value"} and info.field_name == "features":
            raise ValueError("the features are an object in the record's value: write its path, or an empty one")
        return value

    @field_validator("include", "exclude")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            check_pattern(pattern)
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> "RecordsConfig":
        replaced = ("features", "id", "ts", "ts_unit", "label", "flatten")
        given = [name for name in replaced if getattr(self, name) != type(self).model_fields[name].default]
        if self.transform and given:
            raise ValueError(
                f"transform returns the default form, so {' and '.join(given)} would have no effect: remove"
            )
        source = path_of(self.ts).source
        if self.ts_unit != "ms" and source in {"nowhere", "timestamp"}:
            why = "is in milliseconds" if source == "timestamp" else "names no field"
            raise ValueError(
                f"ts = {self.ts!r} {why}: remove ts_unit, or give ts the path of a field in {self.ts_unit}"
            )
        for name in ("id", "ts", "label"):
            path = getattr(self, name)
            if path and (path == self.features or self.features.startswith(f"{path}.")):
                raise ValueError(f"{name} = {path!r} is an object that holds the features: name a field")
        return self


class PredictionsConfig(Section):
    """What a prediction has."""

    format: RecordFormat = Field(
        "json", description="Format of the predictions: json, or with a schema registry avro, protobuf or json-schema."
    )
    features: bool = Field(False, description='Add the features, as the model saw them, under "features".')
    threshold: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Probability from which a binary prediction is true. At 0.5 the model itself decides.",
    )

    @property
    def form(self) -> PredictionForm:
        """What predictions say. With the default threshold the model decides where its classes are equally likely."""
        is_default = self.threshold == type(self).model_fields["threshold"].default
        return PredictionForm(self.features, None if is_default else self.threshold)
