"""The live page of pipelines of other kinds: a model for each key with late labels, a shared regressor, a detector."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Project
from labelled import Sent, labelled, send
from viewer import Served, Sight, chromium, serving, sight, violations

from headrace.pipeline.embedded import Stack

pytestmark = [pytest.mark.kafka, pytest.mark.browser, pytest.mark.xdist_group("page")]

KEYS = ("c-0", "c-1", "c-2")
RECORDS = 90
LABELLED = 60
REGRESSOR = """
from river import linear_model, preprocessing

def build():
    return preprocessing.StandardScaler() | linear_model.LinearRegression()
"""
DETECTOR = """
from river import anomaly, preprocessing

def build():
    return preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=5, height=4, window_size=20, seed=7)
"""


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def keyed(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of a pipeline with a model for each key; of its features two thirds have a label, and the rest wait."""

    def make(**options: Any) -> Project:
        return Project(stack, tmp_path_factory.mktemp("keyed") / "project", **options)

    p = labelled(make, settings={"HEADRACE__MODEL__SCOPE": "key"}, partitions=1)
    sent = []
    for n in range(RECORDS):
        features = {"a": n % 7 - 3.0, "b": n % 5 - 2.0}
        key = KEYS[n % 3].encode()
        sent.append(Sent(False, 0, json.dumps({"id": f"r-{n}", "features": features}).encode(), key=key))
        if n < LABELLED:
            sent.append(Sent(True, 0, json.dumps({"id": f"r-{n}", "label": features["a"] > 0}).encode(), key=key))
    send(p, sent)
    p.run_to_end()
    with serving(p) as page:
        yield page


@pytest.fixture(scope="module")
def shared(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of a pipeline with one regressor for two partitions."""
    p = Project(
        stack,
        tmp_path_factory.mktemp("shared") / "project",
        model=REGRESSOR,
        settings={"HEADRACE__MODEL__SCOPE": "global"},
    )
    for partition in (0, 1):
        rows = [{"a": n % 7 - 3.0, "b": n % 5 - 2.0} for n in range(RECORDS)]
        p.produce(
            [json.dumps({"features": row, "label": 3 * row["a"] - row["b"] + 0.25}).encode() for row in rows],
            partition=partition,
        )
    p.run_to_end()
    with serving(p) as page:
        yield page


@pytest.fixture(scope="module")
def detecting(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of an anomaly detector without a filter, so that its answers are scores; every third has a label."""
    p = Project(stack, tmp_path_factory.mktemp("detecting") / "project", model=DETECTOR)
    for n in range(RECORDS):
        whole = {"id": f"r-{n}", "features": {"a": n % 7 - 3.0, "b": n % 5 - 2.0}}
        p.produce([json.dumps(whole if n % 3 else {**whole, "label": n % 10 == 0}).encode()], partition=n % 2)
    p.run_to_end()
    with serving(p) as page:
        yield page


def ask(seen: Sight) -> str:
    """Ask with the form as it is, and return the answer's text."""
    seen.page.get_by_role("button", name="Ask", exact=True).click()
    answer = seen.page.locator("#answer")
    seen.page.locator("#answer .big, #answer .wrong").wait_for(timeout=60_000)
    return answer.inner_text()


def figure(seen: Sight, name: str) -> str:
    """Return a figure of the room Quality."""
    box = seen.page.locator("#quality-figures > *", has_text=name).first
    return box.inner_text()


def test_each_key_is_asked_by_its_name_and_late_labels_stand_beside_their_predictions(
    keyed: Served, started: Any
) -> None:
    with sight(started) as seen:
        seen.open(keyed.address)
        seen.page.locator("#ask-fields input").nth(2).wait_for()
        key = seen.page.locator("#ask-fields input").first
        assert "required" in seen.page.locator("#ask-fields label").first.inner_text()
        key.fill("c-1")
        known = ask(seen)
        assert f"0:{RECORDS}" in known
        assert "the newest saved model" in known
        assert "learned nothing" not in known
        seen.page.locator("#answer").evaluate("(box) => box.replaceChildren()")
        key.fill("nobody")
        assert "a new one that has learned nothing" in ask(seen)
        seen.page.locator("#answer").evaluate("(box) => box.replaceChildren()")
        key.fill("")
        assert "missing_field" in ask(seen)
        assert key.get_attribute("aria-invalid") == "true"
        # The answer with its status is in the console, too.
        seen.errors.clear()
        assert str(RECORDS - LABELLED) in figure(seen, "Waiting for a label")
        rows = seen.page.locator("#prediction-list tbody tr")
        seen.wait(lambda: seen.page.locator("#prediction-list .tag").count() > 0, what="the labels")
        seen.page.get_by_label("Key", exact=True).fill("c-2")
        seen.wait(lambda: 0 < rows.count() < 50, what="the filter")
        assert set(rows.locator("td", has_text="c-2").all_inner_texts()) == {"c-2"}
        assert "not compared" in seen.page.locator("#changes-note").inner_text()
        assert violations(seen.page) == []
        assert seen.errors == []


def test_the_shared_regressor_answers_for_all_partitions_and_its_error_is_shown(shared: Served, started: Any) -> None:
    with sight(started) as seen:
        seen.open(shared.address)
        seen.page.locator("#ask-fields input").nth(2).wait_for()
        answer = ask(seen)
        assert f"0:{RECORDS}, 1:{RECORDS}" in answer
        assert float(seen.page.locator("#answer .big").inner_text().replace("\N{MINUS SIGN}", "-")) == pytest.approx(
            0, abs=20
        )
        assert seen.page.locator("#answer .shares > *").count() == 0, "a number has no probabilities"
        assert "RMSE" in figure(seen, "Mean absolute error, all")
        assert f"{2 * RECORDS}" in figure(seen, "Scored")
        seen.wait(lambda: "not compared" in seen.page.locator("#changes-note").inner_text(), what="the note")
        assert violations(seen.page) == []
        assert seen.errors == []


def test_a_detector_answers_with_scores_and_no_label_is_called_wrong(detecting: Served, started: Any) -> None:
    with sight(started) as seen:
        seen.open(detecting.address)
        seen.page.locator("#ask-fields input").nth(2).wait_for()
        answer = ask(seen)
        assert answer.startswith("Score")
        assert 0 <= float(seen.page.locator("#answer .big").inner_text()) <= 1
        table = seen.page.locator("#prediction-list")
        seen.wait(lambda: table.locator(".tag").count() > 0, what="the labels")
        titles = table.locator("thead th").all_inner_texts()
        assert "score" in [title.lower() for title in titles]
        assert "sure" not in [title.lower() for title in titles]
        at = [title.lower() for title in titles].index("score")
        scores = table.locator(f"tbody tr td:nth-child({at + 1})").all_inner_texts()
        assert scores
        assert all(0 <= float(score) <= 1 for score in scores)
        assert table.locator(".tag.bad, .tag.good").count() == 0, "a score is neither right nor wrong"
        assert "right" not in seen.page.locator("#predictions-note").inner_text()
        assert violations(seen.page) == []
        assert seen.errors == []
