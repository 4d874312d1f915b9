"""What a run says about its models when it starts."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from headrace.pipeline import assembly
from headrace.pipeline.config.config import load


def told(directory: Path, scope: str, partitions: int) -> list[str]:
    file = directory / "headrace.toml"
    file.write_text(f'[model]\nscope = "{scope}"\n')
    with capture_logs() as lines:
        assembly.tell_models(load(file), partitions)
    return [f"{line['event']}: {line['share']}; {line['hint']}" for line in lines]


def test_a_run_says_that_each_of_several_partitions_has_its_own_model_and_what_else_there_is(tmp_path: Path) -> None:
    (line,) = told(tmp_path, "partition", 4)
    assert "each partition has its own model" in line
    assert "about 1/4 of the records" in line
    assert all(words in line for words in ('"global"', '"key"', "one partition"))


@pytest.mark.parametrize(("scope", "partitions"), [("partition", 1), ("key", 4), ("global", 4)])
def test_a_run_says_nothing_where_no_partition_has_a_model_beside_others(
    tmp_path: Path, scope: str, partitions: int
) -> None:
    assert told(tmp_path, scope, partitions) == []
