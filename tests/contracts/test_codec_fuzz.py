"""Saved models that were damaged: none makes a load do anything but make objects, or refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CASES = 1_000_000 if os.environ.get("HEADRACE_SOAK") else 20_000
LOAD_S_MAX = 5.0


@pytest.mark.timeout(7_200)
def test_no_damaged_model_does_anything_but_fail() -> None:
    command = [sys.executable, "codec_fuzz.py", str(CASES), "1"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    told = json.loads(done.stdout)
    fates = told["fates"]
    assert sum(fates.values()) == CASES
    assert fates["refused"] > CASES / 4
    assert fates["loaded"] + fates["used"] > CASES / 50, fates
    assert told["slowest_s"] < LOAD_S_MAX, told
