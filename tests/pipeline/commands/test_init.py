"""What `init` writes: a file that loads as it stands and with every key uncommented, a model, a sample it learns."""

import re
import tomllib
from pathlib import Path

import pytest

from headrace.consumers.record import Decoder, Event, Record
from headrace.pipeline.check.project_files import ProjectExists, ProjectRefused
from headrace.pipeline.commands import init
from headrace.pipeline.config.config import describe, load
from headrace.state.models import learner
from headrace.state.models.user_modules import modules_beside


@pytest.fixture
def project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert init.init(tmp_path / "card fraud") == 0
    assert "headrace produce sample.jsonl --wait" in capsys.readouterr().out
    return tmp_path / "card fraud"


def keys(tree: dict[str, object], prefix: str = "") -> set[str]:
    found = set()
    for name, value in tree.items():
        found.add(f"{prefix}{name}")
        if isinstance(value, dict):
            found |= keys(value, f"{prefix}{name}.")
    return found


def test_the_file_loads_and_takes_its_name_from_the_directory(project: Path) -> None:
    assert load(project / "headrace.toml").name == "card-fraud"


def test_the_file_has_every_key_with_its_meaning_and_is_good_toml_when_uncommented(project: Path) -> None:
    text = (project / "headrace.toml").read_text()
    whole = tomllib.loads(re.sub(r"(?m)^#(?! )", "", text))
    assert {key for key, _, _ in describe()} <= keys(whole)
    assert [meaning for _, _, meaning in describe() if f"# {meaning}\n" not in text] == []


def test_the_keys_stand_at_their_defaults_whether_commented_out_or_not(project: Path, tmp_path: Path) -> None:
    text = (project / "headrace.toml").read_text()
    # What has no default stands with an example, as the tables do.
    text = re.sub(
        r"(?m)^#(labels|default|sign_key|silent|stale_max|\[challengers|factory|\[schema\.features|type|min|\[sink|url|timeout|headers|authorization|\[kafka|\"|oauth|ssl_ca|password).*\n",
        "",
        text,
    )
    bare = tmp_path / "bare.toml"
    bare.write_text(re.sub(r"(?m)^#(?! )", "", text))
    empty = tmp_path / "empty.toml"
    empty.write_text('name = "card-fraud"\n')
    assert load(bare).model_dump() == load(empty).model_dump() == load(project / "headrace.toml").model_dump()


def test_files_that_are_there_are_not_touched(project: Path) -> None:
    (project / "headrace.toml").unlink()
    (project / "model.py").write_text("mine")
    with pytest.raises(ProjectExists, match=r"model\.py"):
        init.init(project)
    assert (project / "model.py").read_text() == "mine"
    assert not (project / "headrace.toml").exists()


def test_a_directory_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ProjectRefused):
        init.init(tmp_path / "file" / "project")


def test_the_sample_is_the_same_each_time_and_made_of_good_records() -> None:
    first = list(init.sample())
    assert first == list(init.sample())
    assert len({record["id"] for record in first}) == len(first) == 200


def test_the_model_learns_the_sample_clearly_better_than_guessing(project: Path) -> None:
    factory = learner.load_factory("model:build", project)
    river = learner.build(factory, trusted=modules_beside(project))
    decoder = Decoder()
    labels, right = [], 0
    for offset, line in enumerate((project / "sample.jsonl").read_bytes().splitlines()):
        event = decoder.decode(Record(0, offset, 0, None, line, None))
        assert isinstance(event, Event)
        labels.append(event.label)
        right += river.predict(event.features)[0] == event.label
        river.learn(event.features, event.label)
    base_rate = max(labels.count(True), labels.count(False)) / len(labels)
    assert 0.5 < base_rate < 0.75
    assert right / len(labels) > base_rate + 0.1
