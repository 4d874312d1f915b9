"""The act that anyone can check: River's own Phishing data, and the accuracy that River itself publishes for it."""

import json
import time

from headrace.consumers.topics import Topics
from headrace.pipeline.demo.ledger import read
from headrace.pipeline.demo.project import Process, Project
from headrace.pipeline.demo.screen import Screen
from headrace.pipeline.demo.stage import PATIENCE_S, ClaimFailed
from headrace.producers.writer import Feed

RIVER_PUBLISHES = "89.28 %"
"""In River's README: this model on this data, each record predicted before it is learned."""

_FEED_S = 30.0
_LOOK_S = 0.02
# One key, so that all go through one partition wherever the topic has more.
_KEY = b"phishing"


def feed(project: Project) -> int:
    """Put the data into the project's features topic, in order; return how many records it has. Raises Untrue."""
    from river import datasets  # noqa: PLC0415 only this needs it

    config = project.config
    feed = Feed(config.librdkafka, topic=config.topics.features, timeout_s=_FEED_S)
    for number, (features, label) in enumerate(datasets.Phishing()):
        record = {"id": f"site-{number}", "features": features, "label": label}
        feed.send(json.dumps(record).encode(), _KEY)
    feed.finish()
    if feed.fault:
        raise ClaimFailed(f"Kafka did not take the Phishing data: {feed.fault}")
    return feed.acked


def phishing(screen: Screen, project: Project, *, exact: bool) -> None:
    """Learn the data, and hold the accuracy of the predictions topic against what River publishes. Raises Untrue."""
    config = project.config
    Topics({"log_level": 0, **config.librdkafka}).ensure(**config.topics.wanted)
    count = feed(project)
    screen.act(f"River's Phishing data: {count:,} websites, through one partition, predicted and then learned")
    with screen.step("headrace run --until-end"):
        _wait_for_end(project.start("run", "--until-end"))
    books = read(config)
    if books.balance.records != count or not books.balance.holds(exact=exact):
        raise ClaimFailed(f"the {count:,} websites do not add up: {books.balance}")
    truths = {place: json.loads(record.value or b"")["label"] for place, record in books.records.items()}
    answers = {(answer.source.partition, answer.source.offset): answer.prediction for answer in books.answers}
    right = sum(answers[place] == truth for place, truth in truths.items())
    accuracy = f"{right / count * 100:.2f} %"
    told = f"{right:,} of {count:,} predictions are right: {accuracy}   River publishes {RIVER_PUBLISHES}"
    if accuracy != RIVER_PUBLISHES or len({partition for partition, _ in answers}) != 1:
        raise ClaimFailed(told)
    screen.held(told)


def _wait_for_end(process: Process) -> None:
    until = time.monotonic() + PATIENCE_S
    while process.code is None:
        if time.monotonic() > until:
            raise ClaimFailed(f"headrace run --until-end did not end in {PATIENCE_S:.0f} s")
        time.sleep(_LOOK_S)
    if process.code:
        raise ClaimFailed(f"headrace run --until-end ended with exit code {process.code}")
