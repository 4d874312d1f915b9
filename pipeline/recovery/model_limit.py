"""The bound of a model's growth: a warning before the saved model reaches it, and an end of the pipeline there.

New names, categories, words of texts and nodes of trees make a model grow, and a faulty producer can invent any number
of them. The size is looked at when a snapshot is saved or loaded. No record is treated in another way because of it, so
a start with a higher bound goes on from the same place with the same model.
"""

import structlog

from headrace.pipeline.recovery.consistency import StateError

log = structlog.get_logger("headrace")

_WARNED_AT = 0.8


class ModelTooLarge(StateError):
    """Raised when the saved model of a partition is larger than the configured bound."""


class ModelLimit:
    """Compare the sizes of the saved models of partitions with `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._warned: set[int] = set()

    def check(self, partition: int, size: int) -> None:
        """Warn once of a model that is nearly too large. Raises ModelTooLarge for one that is."""
        hint = (
            "raise model.bytes_max, or bound what grows (compose.Select for the names, preprocessing.FeatureHasher for "
            "texts and categories, max_size for trees) under another `name`, which begins a new history"
        )
        if size > self._bytes_max:
            raise ModelTooLarge(
                f"partition {partition}: the saved model has {size:,} bytes, and model.bytes_max is "
                f"{self._bytes_max:,}; the stream goes on from here after the next start",
                hint=hint,
            )
        if size > _WARNED_AT * self._bytes_max and partition not in self._warned:
            self._warned.add(partition)
            log.warning(
                "the model is nearly too large: the pipeline stops at model.bytes_max",
                partition=partition,
                bytes=size,
                bytes_max=self._bytes_max,
                hint=hint,
            )
