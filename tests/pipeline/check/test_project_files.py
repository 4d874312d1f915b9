"""The name of a project, from that of its directory."""

from pathlib import Path

import pytest

from headrace.pipeline.check.project_files import name_of
from headrace.pipeline.config.template import configuration


@pytest.mark.parametrize(
    ("directory", "name"), [("a", "a"), ("Ünder 1!", "nder-1"), ("...", "headrace"), ("é", "headrace")]
)
def test_the_name_is_made_of_what_a_name_may_have(tmp_path: Path, directory: str, name: str) -> None:
    assert f'name = "{name}"\n' in configuration(name_of(tmp_path / directory))
