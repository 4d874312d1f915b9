"""A batch of records as columns, for compiled models, without an object for each record.

The columns have the features of all records one after the other, in the order of each record: so features may appear,
vanish or change their type at any time. Names and words are numbers of a vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

INTEGER, FLOAT, BOOLEAN, STRING, NULL, WIDE = range(6)
"""Kinds of a feature's value, as in JSON. A wide one is an integer beyond 2 ** 53, which a double may not hold."""


class Vocabulary(Protocol):
    """The names and words behind the numbers. In one `generation` a number keeps its meaning, and both lists grow."""

    @property
    def generation(self) -> int:
        """Return the number of the vocabulary; numbers of another generation have another meaning."""

    @property
    def names(self) -> Sequence[str]:
        """Return the names of features, by number."""

    @property
    def words(self) -> Sequence[str]:
        """Return the string values, by number."""


class Answers(NamedTuple):
    """The answers for a batch: one entry a record in each array.

    `value` (float64) is the prediction of a regression; the score of an anomaly detector; the probability of True of a
    binary model, or 1 or 0 for its class where it has no probabilities; the number of the class that a multiclass model
    predicts, -1 for none. `chosen` (int8) is a binary model's class, or the verdict of an anomaly filter, -1 for none.
    Of a multiclass model `proba` (float64) has a column a class, and `known` (int32) says how many of those it knew
    when it answered. `fault` (int8) is 0, or the reason why River would have raised on this record, which has left no
    trace then. Models by key know classes in orders of their own: `order` (int64) then has the number of the class
    behind each column of `proba`, for each record.
    """

    value: Any
    chosen: Any
    proba: Any
    known: Any
    fault: Any
    order: Any = None

    def only(self, kept: Any) -> "Answers":
        """Return the answers to these records only (bool, one entry a record)."""
        return self if kept.all() else Answers(*(None if column is None else column[kept] for column in self))


class Columns(Protocol):
    """The features of n records: record i has the entries from `starts[i]` to `starts[i + 1]`.

    No name stands twice in a record.
    """

    @property
    def starts(self) -> Any:
        """Where the entries of each record begin, and where the last one's end: int64 (n + 1)."""

    @property
    def names(self) -> Any:
        """The number of each entry's feature: int32."""

    @property
    def kinds(self) -> Any:
        """The kind of each entry's value: int8."""

    @property
    def values(self) -> Any:
        """Each value as float64: a number, 0 or 1 for a boolean, the word's number for a string, 0 for null.

        For a wide integer it is the number of the word that has its digits.
        """

    @property
    def vocabulary(self) -> Vocabulary:
        """What the numbers of names and words stand for."""


class FeatureColumns(NamedTuple):
    """Columns that are nothing else."""

    starts: Any
    names: Any
    kinds: Any
    values: Any
    vocabulary: Vocabulary
