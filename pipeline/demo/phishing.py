"""The act that everybody can check: River's Phishing data, and the accuracy that River publishes for it."""

import json
import time

from headrace.consumers.topics import Topics
from headrace.pipeline.demo.ledger import read
from headrace.pipeline.demo.project import Process, Project
from headrace.pipeline.demo.screen import Screen
from headrace.pipeline.demo.stage import PATIENCE_S, ClaimFailed
from headrace.producers.writer import Feed

RIVER_PUBLISHES = "89.28 %"
"""From River's README: the accuracy of this model on this data; each record is predicted before it is learned."""

_FEED_S = 30.0
_LOOK_S = 0.02
# One key, so that all records are in one partition, even if the topic has several.
_KEY = b"phishing"


def feed(project: Project) -> int:
    """Send the data to the project's features topic, in order; return the number of records. Raises ClaimFailed."""
    from river import datasets  # noqa: PLC0415 only this act needs it

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
    """Learn the data, and compare the accuracy of the predictions with River's. Raises ClaimFailed."""
    config = project.config
    Topics({"log_level": 0, **config.librdkafka}).ensure(**config.topics.wanted)
    count = feed(project)
    screen.act(f"River's Phishing data: {count:,} websites, through one partition, predicted and then learned")
    with screen.step("headrace run --until-end"):
        _wait_for_end(project.start("run", "--until-end"))
    contents = read(config)
    if contents.balance.records != count or not contents.balance.holds(exact=exact):
        raise ClaimFailed(f"the {count:,} websites do not add up: {contents.balance}")
    labels = {at: json.loads(record.value or b"")["label"] for at, record in contents.records.items()}
    predicted = {(found.source.partition, found.source.offset): found.prediction for found in contents.predictions}
    right = sum(predicted[at] == label for at, label in labels.items())
    accuracy = f"{right / count * 100:.2f} %"
    told = f"{right:,} of {count:,} predictions are right: {accuracy}   River publishes {RIVER_PUBLISHES}"
    if accuracy != RIVER_PUBLISHES or len({partition for partition, _ in predicted}) != 1:
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
