"""The folder of compiled code: numba uses it, and one that can't be written is told of with the reason."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.pipeline import code_cache


def test_compiled_code_is_kept_in_the_folder_and_found_there_by_the_next_process(tmp_path: Path) -> None:
    code = (
        "from headrace.pipeline import code_cache; code_cache.use()\n"
        "from headrace.producers.fastjson import digits\n"
        "import numpy as np\n"
        "digits.write_integer(np.zeros(30, np.uint8), 0, 7)\n"
        "print(sum(digits.write_integer.stats.cache_hits.values()))\n"
    )
    folder = tmp_path / "not" / "there"
    environment = {**os.environ, code_cache.VARIABLE: str(folder)}
    hits = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
        ).stdout.strip()
        for _ in range(2)
    ]
    assert hits == ["0", "1"]
    assert list(folder.rglob("*.nbi"))


def test_a_folder_that_can_not_be_written_is_told_of_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(code_cache.VARIABLE, raising=False)
    assert code_cache.fault() == ""
    monkeypatch.setenv(code_cache.VARIABLE, str(tmp_path / "new"))
    assert code_cache.fault() == ""
    (tmp_path / "file").touch()
    monkeypatch.setenv(code_cache.VARIABLE, str(tmp_path / "file" / "below"))
    assert code_cache.fault() == "Not a directory"
