"""The model that every peer learns; Headrace uses it as `model.factory`."""

from typing import Any

from river import linear_model, preprocessing


def build() -> Any:
    """Return River's usual first model: a logistic regression on scaled features."""
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()
