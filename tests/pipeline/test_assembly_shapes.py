"""Runs each configuration of docs/own-topic.md on the record beside it."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.consumers.record import Event, Record
from headrace.pipeline import assembly
from headrace.pipeline.config.config import load

PAGE = (Path(__file__).parents[2] / "docs/own-topic.md").read_text(encoding="utf-8")
SHAPES = {
    head: body for head, _, body in (part.partition("\n") for part in PAGE.split("\n## ")[1:]) if "is read as" in body
}


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", section)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_of_the_page_is_read_as_it_says(shape: str, tmp_path: Path) -> None:
    section = SHAPES[shape]
    [settings], [value, read] = blocks(section, "toml"), blocks(section, "json")
    assert len(settings.splitlines()) <= 5, "a shape needs five lines at the most"
    file = tmp_path / "headrace.toml"
    file.write_text(f"[records]\n{settings}", encoding="utf-8")
    (tmp_path / "model.py").write_text("".join(blocks(section, "python")), encoding="utf-8")
    headers = [(name, text.encode()) for name, text in re.findall(r"`(ce_\w+): ([^`]+)`", section)]
    found = assembly.decoder(load(file)).decode(Record(0, 0, 1, b"key", value.encode(), headers))
    assert isinstance(found, Event), found
    fields: dict[str, Any] = {
        name: part for name, part in msgspec.structs.asdict(found).items() if part is not msgspec.UNSET
    }
    assert fields == json.loads(read)


def test_the_table_names_each_shape() -> None:
    rows = re.findall(r"\[below\]\(#([\w-]+)\)", PAGE)
    here = [re.sub(r"[^\w -]", "", shape).lower().replace(" ", "-") for shape in SHAPES]
    assert rows == [*here, "a-schema-registry"], "the formats with a registry are run by e2e/test_formats.py"
