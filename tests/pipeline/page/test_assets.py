"""The page's files: those of others are the ones that were published, and none asks for anything from elsewhere."""

import hashlib
import posixpath
import re
from pathlib import Path

from headrace.pipeline.page.assets import assets

PAGE = Path(__file__).parents[3] / "pipeline/page"
VENDOR = PAGE / "static/vendor"
BYTES_MAX = 200 * 1024


def test_each_file_of_others_is_the_one_that_the_lock_names() -> None:
    lines = [line.split() for line in (PAGE / "vendor.lock").read_text().splitlines()]
    assert {file for _, file, _ in lines} == {file.name for file in VENDOR.iterdir()}
    for _, file, checksum in lines:
        assert hashlib.sha256((VENDOR / file).read_bytes()).hexdigest() == checksum, file
    assert any("LICENSE" in file for _, file, _ in lines)


def test_the_page_is_small_even_uncompressed() -> None:
    assert sum(len(asset.content) for asset in assets().values()) <= BYTES_MAX


def test_what_the_page_links_to_is_there() -> None:
    found = assets()
    html = found["index.html"].content.decode()
    linked = set(re.findall(r'(?:src|href)="/static/([^"]+)"', html))
    imported = {
        posixpath.normpath(f"{posixpath.dirname(name)}/{path}").lstrip("/")
        for name, asset in found.items()
        if name.endswith(".js") and not name.startswith("vendor/")
        for path in re.findall(r'from "(\.[^"]+)"', asset.content.decode())
    }
    assert linked
    assert imported
    assert (linked | imported) <= found.keys()


def test_nothing_is_inline_or_from_elsewhere() -> None:
    for name, asset in assets().items():
        text = asset.content.decode()
        if name.endswith(".html"):
            assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", text)
        if not name.startswith("vendor/"):
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|\beval\(|innerHTML", text), name
