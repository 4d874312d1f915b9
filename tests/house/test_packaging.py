"""What is built from the checkout: one import name in the wheel, nothing twice in the source archive."""

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from source import NAME, PACKAGES, ROOT

AT_THE_TOP = {"__init__.py", "__main__.py", "py.typed"}


def built(kind: str, into: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(into)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    [archive] = into.iterdir()
    return archive


def below(*folders: str) -> set[str]:
    """Return the files of folders of the checkout, without what Python and editors leave there."""
    files = (file.relative_to(ROOT) for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file())
    return {str(file) for file in files if not any(part.startswith((".", "__pycache__")) for part in file.parts)}


def tops(names: Iterable[str]) -> set[str]:
    return {name.partition("/")[0] for name in names}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_has_one_name_and_every_file_of_the_four_folders(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    [metadata] = tops(names) - {NAME}
    assert metadata.endswith(".dist-info")
    wanted = AT_THE_TOP | below(*PACKAGES)
    assert "pipeline/embedded/jars.lock" in wanted
    assert {name.removeprefix(f"{NAME}/") for name in names if name.startswith(f"{NAME}/")} == wanted


def test_what_the_wheel_installs_is_the_command(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    [entry] = tmp_path.glob("*.dist-info/entry_points.txt")
    assert f"{NAME} = {NAME}.pipeline.commands.cli:main" in entry.read_text().splitlines()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    for words in (["-m", NAME, "--help"], ["-c", f"import {NAME}; print('Usage:', {NAME}.__file__)"]):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout.split()[0]) == (0, "Usage:"), done.stderr
    assert Path(done.stdout.split()[1]) == tmp_path / NAME / "__init__.py"


def test_the_source_archive_holds_each_file_once_and_no_link_to_itself(tmp_path: Path) -> None:
    with tarfile.open(built("sdist", tmp_path)) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers()]
        assert not [member.name for member in archive.getmembers() if member.issym() or member.islnk()]
    assert len(names) == len(set(names))
    assert below(*PACKAGES, "tests") | AT_THE_TOP | {"pyproject.toml", "README.md", "LICENSE"} <= set(names)
    assert not [name for name in names if name.startswith("deploy/editable")]


def test_the_link_of_an_editable_install_leads_to_the_checkout() -> None:
    link = ROOT / "deploy/editable" / NAME
    assert link.is_symlink()
    assert link.readlink() == Path("../..")


def test_no_folder_beside_the_checkout_is_on_the_path() -> None:
    """Another project of the developer's would else hide, or be taken for, a module that a test names."""
    assert str(ROOT.parent) not in sys.path
