"""What `top` shows in a small terminal: all of it, without colours too."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from headrace.consumers.group_offsets import PartitionOffsets
from headrace.pipeline.page.frame import FrameMaker, Sighting, StreamFrame
from headrace.pipeline.page.terminal import HEIGHT, WIDTH, TopScreen
from headrace.pipeline.status.report import Observations, summarise

QUALITY = {"0": {"scored": 1_000, "accuracy": 0.9, "accuracy_recent": 0.8}}


def frames(partitions: int, *, state: str = "running", workers: int = 2) -> list[StreamFrame]:
    maker, made = FrameMaker(), []
    for second in range(1, 6):
        places = {
            number: PartitionOffsets(
                100 * second,
                json.dumps({"e": 1, "x": 0, "s": 0, "r": 100 * second, "p": 100 * second, "d": 0, "n": 9}),
                0,
                100 * second + number,
            )
            for number in range(partitions)
        }
        notes = [
            {
                "ordinal": n,
                "host": "a-machine",
                "pid": 10 + n,
                "state": state,
                "quality": QUALITY,
                "restarts": 1,
                "reason": "the store does not answer: it is a long reason that goes on and on "
                * 3
                * (state == "paused"),
                "partitions": list(range(n, partitions, workers)),
                "cause": "store",
                "epochs": {"0": second},
            }
            for n in range(workers)
        ]
        report = summarise("fraud", Observations(places, {}, notes))
        made.append(maker.make(Sighting(second * 1_000, report, places, second * 1_000, {})))
    return made


def drawn(shown: list[StreamFrame], *, width: int = WIDTH, height: int = HEIGHT, **options: Any) -> list[str]:
    screen, console = TopScreen("fraud"), Console(file=io.StringIO(), width=width, height=height, **options)
    for frame in shown:
        screen.take(frame)
    with console.capture() as captured:
        console.print(screen.draw(shown[-1], width=width, height=height))
    return captured.get().rstrip("\n").splitlines()


@pytest.mark.parametrize("partitions", [0, 1, 4, 40])
@pytest.mark.parametrize("state", ["running", "paused"])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60)])
def test_all_fits_into_the_terminal(partitions: int, state: str, width: int, height: int) -> None:
    lines = drawn(frames(partitions, state=state, workers=min(2, partitions)), width=width, height=height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_the_figures_are_there_without_colours_too() -> None:
    text = "\n".join(drawn(frames(4), no_color=True, force_terminal=False))
    assert "\x1b" not in text
    for words in ("fraud", "RUNNING", "records", "2,000", "400/s", "lag 6", "accuracy recent 0.8", "a-machine"):
        assert words in text, words
    assert "▁" in text or "█" in text


def test_of_many_partitions_those_are_shown_that_are_furthest_behind() -> None:
    lines = drawn(frames(40))
    shown = [line.split()[0] for line in lines if line.strip()[:2].strip().isdigit() and "500" in line]
    assert shown[-1] == "39"
    assert any("more with less lag" in line for line in lines)


def test_a_pause_says_why_and_what_to_do() -> None:
    text = "\n".join(drawn(frames(2, state="paused")))
    assert "PAUSED 503" in text
    assert "the store does not answer" in text
    assert "Nothing is lost" in text
