"""The folder that keeps compiled code from one start to the next: the one that HEADRACE_CACHE names.

Without it, numba keeps the code beside the sources or in the user's home. A new container has neither of these from the
container before it. numba compares the sources of each function, its own version and the processor's. So releases share
a folder.
"""

import os
import tempfile
from pathlib import Path

VARIABLE = "HEADRACE_CACHE"
_OF_NUMBA = "NUMBA_CACHE_DIR"


def use() -> None:
    """Make numba keep its code in the folder. It reads its own variable when it is imported first."""
    if folder := os.environ.get(VARIABLE):
        os.environ[_OF_NUMBA] = str(Path(folder).absolute())


def fault() -> str:
    """Return why the folder can't keep code, empty if it can, or if none is named. It is created if it is missing."""
    if not (folder := os.environ.get(VARIABLE)):
        return ""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
