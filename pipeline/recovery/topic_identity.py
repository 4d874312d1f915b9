"""The identity of the topics: a topic that is deleted and created again under its name is another topic.

Kafka gives a topic an id when it is created (KIP-516). librdkafka silently accepts a new id and reads on from the old
offset. So records have no lasting effect until the ids were asked again after the records were read. An id never comes
back: if a topic has the old id now, it had it all the time. A thread asks while the batch is learned and handed over.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping

from headrace.consumers.source import SourceAway, SourceError
from headrace.consumers.topics import Topic
from headrace.pipeline.recovery.consistency import gone, replaced

_PERIOD_S = 0.5
# If the last confirmation is older, there was a pause, an outage or a sleep of the machine.
_LATELY_S = 1.5
_WAIT_S = 6.0
_AGAIN_S = 0.2
# A broker that has just started may not know a topic for a moment.
_GONE_S = 5.0


class TopicIdentity:
    """Check that `topic` and its labels topic are still the same ones; `ask` returns the ids of existing topics.

    If the broker has no ids, everything counts as confirmed.
    """

    def __init__(self, topic: Topic, *, ask: Callable[[Collection[str]], Mapping[str, str]]) -> None:
        self._kinds = {topic.name: "features"}
        self._ids = {topic.name: topic.id}
        if topic.labels is not None:
            self._kinds[topic.labels.name] = "labels"
            self._ids[topic.labels.name] = topic.labels.id
        self._ids = {name: id_ for name, id_ in self._ids.items() if id_}
        self._ask = ask
        self._news = threading.Condition()
        self._wanted_at = self._asked_at = self._answered_at = self._confirmed_at = self._read_at = 0.0
        self._gone_since: float | None = None
        self._refused: Exception | None = None
        self._away: SourceAway | None = None
        self._is_told = True
        if self._ids:
            threading.Thread(target=self._watch, name="identity", daemon=True).start()

    @property
    def read_at(self) -> float:
        """The time of the last read, in seconds of the monotonic clock."""
        return self._read_at

    @property
    def is_confirmed(self) -> bool:
        """Whether all records so far are known to be of these topics."""
        return not self._ids or self._confirmed_at >= self._read_at

    def read(self) -> None:
        """Note that records were read."""
        self._read_at = time.monotonic()

    def expect(self, since: float) -> None:
        """Start to ask about the records that were read until `since`, which will soon be confirmed."""
        if self._ids and self._confirmed_at < since and self._wanted_at < since:
            self._want()

    def confirm(self, since: float | None = None) -> None:
        """Wait until the records that were read until `since`, or until now, are known to be of these topics.

        Raises StateError if they may be of another topic, and SourceAway.
        """
        if not self._ids:
            return
        since = time.monotonic() if since is None else since
        with self._news:
            if self._refused is None and self._confirmed_at < since:
                # The answer to a call that began earlier may describe an earlier topic.
                if not self._asked_at < since <= self._wanted_at:
                    self._want()
                self._news.wait_for(lambda: self._refused is not None or self._answered_at >= since, _WAIT_S)
            if self._refused is not None:
                raise self._refused
            if self._confirmed_at < since:
                raise self._away or SourceAway("Kafka does not answer which topics it has")

    def refresh(self) -> None:
        """Confirm, if the last confirmation is old, as after a pause or an outage. Raises the errors of `confirm`."""
        if time.monotonic() > self._confirmed_at + _LATELY_S:
            self.confirm()

    def look(self) -> None:
        """Ask from time to time. Raises StateError for another topic, and SourceAway for one that is gone."""
        if self._refused is not None:
            raise self._refused
        if self._ids and self._asked_at >= self._wanted_at and time.monotonic() > self._asked_at + _PERIOD_S:
            self._want()
        if self._gone_since is not None and not self._is_told and self._away is not None:
            self._is_told = True
            raise self._away

    def is_there(self, name: str) -> bool:
        """Return whether Kafka has a topic, or this user may not see whether it has. Raises SourceAway."""
        try:
            return name in self._ask([name])
        except SourceError:
            return True

    def missing(self, names: Collection[str]) -> list[str]:
        """Return those of some topics that do not exist; none if Kafka does not tell, or did not lately."""
        if self._away is not None:
            # Another call would only wait for its timeout.
            return []
        try:
            found = self._ask(names)
        except (SourceAway, SourceError):
            return []
        return [name for name in names if name not in found]

    def _want(self) -> float:
        with self._news:
            self._wanted_at = time.monotonic()
            self._news.notify_all()
            return self._wanted_at

    def _watch(self) -> None:
        while self._refused is None:
            with self._news:
                # No broker has answered: ask again, as another one may.
                wait_s = None if self._answered_at == self._asked_at else _AGAIN_S
                self._news.wait_for(lambda: self._wanted_at > self._asked_at, wait_s)
            began = time.monotonic()
            away: SourceAway | None = None
            answered_at = self._answered_at
            try:
                found = self._ask(self._ids)
                answered_at = began
                self._judge(found, began)
            except SourceAway as error:
                away = error
            except Exception as error:  # noqa: BLE001 raised in the thread that waits for the answer
                self._refused = error
            with self._news:
                self._asked_at, self._answered_at, self._away, self._is_told = began, answered_at, away, False
                if away is None and self._refused is None:
                    self._confirmed_at = began
                self._news.notify_all()

    def _judge(self, found: Mapping[str, str], now: float) -> None:
        for name, id_ in self._ids.items():
            if name in found and found[name] != id_:
                raise replaced(self._kinds[name], name)
        missing = [name for name in self._ids if name not in found]
        if not missing:
            self._gone_since = None
            return
        self._gone_since = self._gone_since or now
        if now > self._gone_since + _GONE_S:
            raise gone(self._kinds[missing[0]], missing[0])
        raise SourceAway(f"Kafka has no topic {missing[0]} any more")
