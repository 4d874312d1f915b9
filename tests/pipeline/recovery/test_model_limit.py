"""The bound of a model's growth: one warning before it, an end at it."""

import pytest
from structlog.testing import capture_logs

from headrace.pipeline.recovery.model_limit import ModelLimit, ModelTooLarge


def test_a_model_is_warned_of_once_and_refused_above_the_bound() -> None:
    limit = ModelLimit(1_000)
    with capture_logs() as logs:
        for size in (0, 800, 801, 1_000, 999):
            limit.check(3, size)
    assert [(line["partition"], line["bytes"], line["bytes_max"]) for line in logs] == [(3, 801, 1_000)]
    with capture_logs() as logs:
        limit.check(4, 900)
    assert len(logs) == 1
    with pytest.raises(ModelTooLarge, match=r"partition 3: the saved model has 1,001 bytes"):
        limit.check(3, 1_001)
