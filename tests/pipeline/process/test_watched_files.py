from pathlib import Path

from headrace.pipeline.process.watched_files import WatchedFiles


def test_a_file_with_new_content_is_reported_once_when_the_others_are_written_as_well(tmp_path: Path) -> None:
    certificate, key = tmp_path / "crt", tmp_path / "key"
    for file in (certificate, key):
        file.write_text("old")
    watched = WatchedFiles([certificate, key], now_s=0.0)
    assert watched.changed(5.0) == []
    certificate.write_text("new")
    assert watched.changed(10.0) == [], "the key may still be written"
    key.write_text("new")
    assert watched.changed(11.5) == []
    assert watched.changed(12.6) == []
    assert watched.changed(14.0) == [certificate, key]
    assert watched.changed(20.0) == []


def test_a_file_that_is_touched_or_missing_for_a_while_has_not_changed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("same")
    watched = WatchedFiles([secret], now_s=0.0)
    secret.unlink()
    assert [watched.changed(now) for now in (2.0, 4.0, 6.0)] == [[], [], []]
    secret.write_text("same")
    assert [watched.changed(now) for now in (8.0, 12.0, 16.0)] == [[], [], []]
    other = tmp_path / "other"
    other.write_text("new")
    secret.unlink()
    # As Kubernetes replaces a secret: by a link to another file.
    secret.symlink_to(other)
    assert [watched.changed(now) for now in (20.0, 24.0)] == [[], [secret]]
