"""The topics' identity: a topic that is deleted and made again under its name is another topic.

Kafka gives a topic an id when it is made (KIP-516). librdkafka takes a new id from its metadata in silence and reads on
from the old offset. So what was read has no lasting effect before the ids were asked once more after it was read: an id
never comes back, so a topic that has the old one now had it all the time. The question is asked beside the loop, while
the batch is learned and handed over.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping

from headrace.consumers.source import SourceAway, SourceError
from headrace.consumers.topics import Topic
from headrace.pipeline.recovery.consistency import gone, replaced

_PERIOD_S = 0.5
# A confirmation that is older tells of a pause, an outage or a sleep.
_LATELY_S = 1.5
_WAIT_S = 6.0
_AGAIN_S = 0.2
# A broker that has just come up may not know of a topic for a moment.
_GONE_S = 5.0


class TopicIdentity:
    """Know whether `topic`, and its labels topic, are what they were: `ask` returns the ids of those that are there.

    Where the broker knows no ids nothing is asked, and everything is confirmed.
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
        """When something was read last, in seconds of the monotonic clock."""
        return self._read_at

    @property
    def is_confirmed(self) -> bool:
        """Whether all that was read is known to be of the topics."""
        return not self._ids or self._confirmed_at >= self._read_at

    def read(self) -> None:
        """Note that something was read."""
        self._read_at = time.monotonic()

    def expect(self, since: float) -> None:
        """Begin to ask about what was read until `since`: it is to be confirmed soon."""
        if self._ids and self._confirmed_at < since and self._wanted_at < since:
            self._want()

    def confirm(self, since: float | None = None) -> None:
        """Return when it is known that what was read until `since`, or until now, was of the topics.

        Raises StateError where it may have been of another, and SourceAway.
        """
        if not self._ids:
            return
        since = time.monotonic() if since is None else since
        with self._news:
            if self._refused is None and self._confirmed_at < since:
                # A call that began before may have been answered for what was there before.
                if not self._asked_at < since <= self._wanted_at:
                    self._want()
                self._news.wait_for(lambda: self._refused is not None or self._answered_at >= since, _WAIT_S)
            if self._refused is not None:
                raise self._refused
            if self._confirmed_at < since:
                raise self._away or SourceAway("Kafka does not answer which topics it has")

    def refresh(self) -> None:
        """Confirm where nothing was confirmed lately, as after a pause, an outage or a sleep. Raises as `confirm`."""
        if time.monotonic() > self._confirmed_at + _LATELY_S:
            self.confirm()

    def look(self) -> None:
        """Ask when it is long since, and raise what was found: StateError, or SourceAway for a topic that is gone."""
        if self._refused is not None:
            raise self._refused
        if self._ids and self._asked_at >= self._wanted_at and time.monotonic() > self._asked_at + _PERIOD_S:
            self._want()
        if self._gone_since is not None and not self._is_told and self._away is not None:
            self._is_told = True
            raise self._away

    def is_there(self, name: str) -> bool:
        """Ask whether Kafka has a topic; one that this user may not see may be there. Raises SourceAway."""
        try:
            return name in self._ask([name])
        except SourceError:
            return True

    def _want(self) -> float:
        with self._news:
            self._wanted_at = time.monotonic()
            self._news.notify_all()
            return self._wanted_at

    def _watch(self) -> None:
        while self._refused is None:
            with self._news:
                # What no broker answered is asked again: another one may.
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
            except Exception as error:  # noqa: BLE001 whoever waits is to hear of it, not this thread
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
