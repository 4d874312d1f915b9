"""Examples whose label comes later: the data that is kept of each, and the order in which they are taken.

The order is that of `river.stream.simulate_qa`: before a record is predicted, the labels whose delay is over come, the
oldest first; those that are left come at the end.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from headrace.consumers.record import Event, Record, RecordDecoder, Skipped
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.refusal import Refusal
from headrace.pipeline.config.duration import duration_s
from headrace.pipeline.hinted_error import HintedError

LabelOf = Callable[[Event, Record], Any]


class DelayRefused(HintedError):
    """Raised when a delay can't be applied."""


class Delay(msgspec.Struct, frozen=True):
    """After how long labels come: milliseconds of event time, or a number of records. At once without either."""

    ms: int | None = None
    records: int | None = None

    @property
    def is_none(self) -> bool:
        """Whether each label comes with its record."""
        return self.ms is None and self.records is None

    def __str__(self) -> str:
        """Return the delay in words."""
        if self.records is not None:
            return f"labels after {self.records:,} records"
        return "labels at once" if self.ms is None else f"labels after {self.ms / 1_000:g} s"


def delay_of(time: str | None, records: int | None) -> Delay:
    """Return the delay of the options `--delay` and `--delay-records`. Raises DelayRefused."""
    if time is not None and records is not None:
        raise DelayRefused("--delay and --delay-records are two delays", hint="give one of them")
    if time is None:
        return Delay(records=records)
    try:
        return Delay(ms=round(duration_s(time) * 1_000))
    except ValueError as error:
        raise DelayRefused(f"--delay {time}: {error}", hint="write it like 30m, 2h or 1d") from error


class Examples:
    """The examples of one log that are still of use, by their number, which counts the records that could be read.

    `kept` has what the decoder keeps of a record, `labels` its label as it came (None for none), `times` its event time
    in ms (None for none), `keys` its key, and `logged` its time in the log. `first` is the number of the first one that
    is still there.

    `read` counts the records, `skipped` those without features, `refused` the codes of the others. `label_of` finds the
    label of a record that has none of its own.
    """

    def __init__(self, decoder: RecordDecoder, *, label_of: LabelOf | None = None) -> None:
        self._decoder = decoder
        self._label_of = label_of
        self.first = 0
        self.kept: list[bytes] = []
        self.labels: list[Any] = []
        self.times: list[int | None] = []
        self.keys: list[bytes | None] = []
        self.logged: list[int] = []
        self.read = 0
        self.skipped = 0
        self.refused: Counter[str] = Counter()

    def add(self, batch: RecordBatch) -> range:
        """Decode the next records, and return the numbers of the examples among them."""
        begin = self.first + len(self.kept)
        for record in batch.records():
            found = self._decoder.decode(record)
            if isinstance(found, Skipped):
                self.skipped += 1
            elif isinstance(found, Refusal):
                self.refused[found.code] += 1
            else:
                label = None if found.label is msgspec.UNSET else found.label
                if label is None and self._label_of is not None:
                    label = self._label_of(found, record)
                self.kept.append(self._decoder.keep(record, found.features))
                self.labels.append(label)
                self.times.append(None if found.ts is msgspec.UNSET else found.ts)
                self.keys.append(record.key)
                self.logged.append(record.timestamp_ms)
        self.read += len(batch)
        return range(begin, self.first + len(self.kept))

    def forget(self, number: int) -> None:
        """Free the examples below a number."""
        gone = number - self.first
        for column in (self.kept, self.labels, self.times, self.keys, self.logged):
            del column[:gone]
        self.first = number


class Schedule:
    """The order in which examples are predicted and their labels come, after a delay.

    `is_logged` tells whether a record without an event time has that of the log.
    """

    def __init__(self, delay: Delay, *, is_logged: bool) -> None:
        self._delay = delay
        self._is_logged = is_logged
        # The numbers of the examples whose label is to come, and when it comes: the first is at `_head`.
        self._waiting: list[int] = []
        self._due: list[int] = []
        self._head = 0

    def steps(self, examples: Examples, numbers: range) -> list[int]:
        """Return the steps up to the last of some examples: a number to predict it, ~number when its label comes.

        Raises DelayRefused for a delay in time if an example has no time.
        """
        found: list[int] = []
        waiting, due, head = self._waiting, self._due, self._head
        by_count, more = self._delay.records is not None, self._delay.records or self._delay.ms or 0
        for number in numbers:
            now = number if by_count else self._time_of(examples, number)
            while head < len(due) and due[head] <= now:
                found.append(~waiting[head])
                head += 1
            if examples.labels[number - examples.first] is not None:
                waiting.append(number)
                due.append(now + more)
            found.append(number)
        del waiting[:head], due[:head]
        self._head = 0
        return found

    def rest(self) -> list[int]:
        """Return the steps of the labels that are left at the end."""
        return [~number for number in self._waiting]

    def oldest(self, following: int) -> int:
        """Return the oldest number that is still of use; `following` is the next one."""
        return self._waiting[0] if self._waiting else following

    def _time_of(self, examples: Examples, number: int) -> int:
        at = number - examples.first
        if (time := examples.times[at]) is not None:
            return time
        if not self._is_logged:
            raise DelayRefused(
                f"record {number + 1} has no time, so no delay in time can be applied",
                hint="set records.ts to the path of the time, or give the delay in records: --delay-records N",
            )
        return examples.logged[at]
