"""A model that answers: what was loaded of it, and its place in the stream, which is in each answer."""

from collections.abc import Mapping
from typing import Any

import msgspec

from headrace.state.models.model import Model

GENERATION = 1
"""The generation of a model that no other has replaced."""


class ServedModel:
    """A loaded `model`, the next offsets that it would learn, and how much it has learned.

    It predicts and is never taught. `single` is the same model in the form that is fastest for one record, if that is
    another one. `version` is that of its snapshot, 0 for one that has none. With one model for all
    partitions `partition` is -1, and `offsets` and `labels_offsets` have an entry for each. `confirmed_s` is when the
    store last said that this version is the newest, on the clock of the server. `draws` says that it draws random
    numbers when it predicts: then each record gets a copy.
    """

    __slots__ = (
        "_place", "cache", "confirmed_s", "draws", "generation", "labels_offsets", "learned", "model", "model_name",
        "name", "offsets", "partition", "single", "strange", "version",
    )  # fmt: skip

    def __init__(
        self,
        model: Model,
        *,
        name: str,
        version: int,
        partition: int,
        offsets: Mapping[int, int],
        labels_offsets: Mapping[int, int],
        learned: int,
        confirmed_s: float,
        model_name: str = "",
        generation: int = GENERATION,
        single: Model | None = None,
    ) -> None:
        self.model = model
        self.single = single or model
        # Answers that were given, by the value and the key of the record, the oldest first.
        self.cache: dict[tuple[bytes, bytes | None], Any] = {}
        # Names of features that were asked with, and that River may have noted.
        self.strange: set[str] = set()
        self.name = name
        self.version = version
        self.partition = partition
        self.offsets = dict(offsets)
        self.labels_offsets = dict(labels_offsets)
        self.learned = learned
        self.confirmed_s = confirmed_s
        self.model_name = model_name
        self.generation = generation
        # River writes every parameter into the spec.
        self.draws = "seed=" in model.spec
        self._place = msgspec.json.encode(self.place())[:-1]

    def place(self) -> dict[str, Any]:
        """Return the model's name and its place in the stream, as an answer has them."""
        told: dict[str, Any] = {"name": self.name, "version": self.version, "generation": self.generation}
        if self.partition < 0:
            told["offsets"] = {str(partition): offset for partition, offset in self.offsets.items()}
            if self.labels_offsets:
                told["labels_offsets"] = {str(partition): offset for partition, offset in self.labels_offsets.items()}
            return told
        told["partition"] = self.partition
        told["offset"] = self.offsets[self.partition]
        if self.labels_offsets:
            told["labels_offset"] = self.labels_offsets[self.partition]
        return told

    def confirm(self, at_s: float) -> None:
        """Note that the store said at a time that this version is the newest."""
        self.confirmed_s = max(self.confirmed_s, at_s)

    def age_s(self, now_s: float) -> float:
        """Return for how long it is not known to be the newest."""
        return max(0.0, now_s - self.confirmed_s)

    def encode(self, now_s: float, freshness_s: float) -> bytes:
        """Return the `model` of an answer, as JSON."""
        age_s = self.age_s(now_s)
        stale = b"true" if age_s > freshness_s else b"false"
        return b'%b,"age_ms":%d,"stale":%b}' % (self._place, age_s * 1_000, stale)
