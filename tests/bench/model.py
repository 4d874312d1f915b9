"""The model that every peer learns; Headrace uses it as `model.factory`."""

from typing import Any

from river import linear_model, preprocessing


def build() -> Any:
    """Return River's usual first model: a logistic regression on scaled features."""
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def record(value: dict[str, Any]) -> dict[str, Any]:
    """Return a flat event in Headrace's form: the bench's `records.transform`."""
    id_, ts, label = value.pop("event_id"), value.pop("created"), value.pop("clicked")
    return {"id": id_, "ts": ts, "features": value, "label": label}
