"""The order in which a shard read its two logs, features and labels, since the oldest snapshot that it may start from.

Kafka keeps the order within each log, but not between the two, and the model depends on that. So each step, a slice of
both logs, is kept in the metadata of the committed offset, and relearning repeats the same steps. Within a step the
records are ordered by their timestamps, which are the same in every run.
"""

import base64
from collections.abc import Iterator, Sequence

ReadStep = tuple[int, int]
"""The end of a step: the next offset of the features, and that of the labels."""

# In base 64 this is 2,400 bytes; a broker keeps 4,096 bytes of metadata by default.
_BYTES_MAX = 1_800
_DUE_BYTES = 900
# The longest step: two offsets of 64 bits.
_STEP_BYTES_MAX = 20
_KEEP = 3


class OrderError(ValueError):
    """Raised when text is not an encoded order."""


class Order:
    """The steps of a shard from `base` on; steps that no kept snapshot needs are forgotten.

    `turn` counts how often the history was learned again in a new order, because the old order was lost.
    """

    def __init__(self, base: ReadStep, steps: Sequence[ReadStep] = (), *, turn: int = 0) -> None:
        self.turn = turn
        self.base = base
        self._steps = list(steps)
        self._saved = [base]
        self._size = sum(map(len, self._packed()))

    @property
    def is_due(self) -> bool:
        """Whether a snapshot should be saved soon, so that steps may be forgotten."""
        return self._size > _DUE_BYTES

    @property
    def is_full(self) -> bool:
        """Whether no step may be added before a snapshot is saved."""
        return self._size > _BYTES_MAX - 2 * _STEP_BYTES_MAX

    def add(self, end: ReadStep) -> None:
        """Add a step. Successive steps in the same log alone are joined, since their records have only one order."""
        last = self._steps[-1] if self._steps else self.base
        if end == last:
            return
        if self._steps and last not in self._saved:
            before = self._steps[-2] if len(self._steps) > 1 else self.base
            if any(before[log] == last[log] == end[log] for log in (0, 1)):
                self._size -= len(_pack(before, self._steps.pop()))
                last = before
        self._steps.append(end)
        self._size += len(_pack(last, end))

    def saved(self, place: ReadStep) -> None:
        """Note a snapshot at the end of the last step, or within it, and forget the steps that none needs any more."""
        self._saved = [*self._saved, place][-_KEEP:]
        self._forget()
        while self.is_due and len(self._saved) > 1:
            del self._saved[0]
            self._forget()

    def since(self, place: ReadStep) -> list[ReadStep] | None:
        """Return the steps that follow a place; None when the place is neither between two steps nor within one.

        A place may lie within a step only if the step is in one log alone, which can be relearned from any offset.
        """
        before = self.base
        for index, step in enumerate(self._steps):
            if place == before:
                return self._steps[index:]
            for one, other in ((0, 1), (1, 0)):
                alone = before[other] == step[other] == place[other]
                if alone and before[one] < place[one] < step[one]:
                    return self._steps[index:]
            before = step
        return [] if place == before else None

    def encode(self) -> str:
        """Write the order as text that `decode` reads: differences as variable-length integers, in base 64."""
        head = _pack((0,), (self.turn,)) + _pack((0, 0), self.base)
        return base64.b64encode(head + b"".join(self._packed())).decode()

    def _forget(self) -> None:
        steps = self.since(self._saved[0])
        if steps is not None:
            self._steps = steps
            self.base = self._saved[0]
            self._size = sum(map(len, self._packed()))

    def _packed(self) -> Iterator[bytes]:
        before = self.base
        for step in self._steps:
            yield _pack(before, step)
            before = step


def decode(text: str) -> Order:
    """Read what `encode` wrote. Raises OrderError for anything else."""
    try:
        numbers = list(_unpack(base64.b64decode(text, validate=True)))
    except ValueError as error:
        raise OrderError(f"{text[:40]!r} is not an order: {error}") from error
    if len(numbers) < len(("turn", "features", "labels")) or not len(numbers) % 2:
        raise OrderError(f"{text[:40]!r} is not an order: it has {len(numbers)} numbers")
    turn, *numbers = numbers
    ends: list[ReadStep] = []
    features = labels = 0
    for more_features, more_labels in zip(numbers[::2], numbers[1::2], strict=True):
        features, labels = features + more_features, labels + more_labels
        ends.append((features, labels))
    return Order(ends[0], ends[1:], turn=turn)


def _pack(before: tuple[int, ...], after: tuple[int, ...]) -> bytes:
    """Encode the length of a step in each log, seven bits a byte, the low ones first."""
    packed = bytearray()
    for start, end in zip(before, after, strict=True):
        left = end - start
        while left > 0x7F:  # noqa: PLR2004 seven bits
            packed.append(left & 0x7F | 0x80)
            left >>= 7
        packed.append(left)
    return bytes(packed)


def _unpack(packed: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:  # noqa: PLR2004 the last of its number
            yield number
            number = shift = 0
    if shift:
        raise ValueError("it is cut off")
