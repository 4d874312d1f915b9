"""The refusal of a record on which the model raised."""

from headrace.consumers.refusal import Refusal, RefusalStage
from headrace.state.models.river_calls import FeatureMissing


def refusal_of(error: BaseException, stage: RefusalStage = "learn", *, prefix: str) -> Refusal:
    """Return the refusal for what a model raised: its own fault, unless the record lacks what the model needs.

    The `prefix` stands before the name of a feature, as `RecordDecoder.feature_prefix`.
    """
    if isinstance(error, FeatureMissing):
        return Refusal("missing_field", "validate", str(error), f"{prefix}{error.feature}")
    return Refusal("learn_failed", stage, f"the model raised {type(error).__name__}: {error}")
