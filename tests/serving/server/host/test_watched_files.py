import os
from pathlib import Path

import pytest
import structlog.testing

from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host.watched_files import WatchedFiles


def word(path: Path) -> str:
    text = path.read_text()
    if " " in text:
        raise StartError("not one word")
    return text


def test_a_change_is_seen_and_logged_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("first")
    watched = WatchedFiles("words", [file], lambda: word(file), 0)
    assert watched.current() == "first"
    file.write_text("second")
    with structlog.testing.capture_logs() as log:
        assert [watched.current(), watched.current()] == ["second", "second"]
    assert [line["event"] for line in log] == ["words reloaded"]


def test_an_invalid_file_leaves_the_last_valid_value_and_is_logged_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("good")
    watched = WatchedFiles("words", [file], lambda: word(file), 0)
    file.write_text("no good")
    with structlog.testing.capture_logs() as log:
        assert [watched.current() for _ in range(3)] == ["good"] * 3
    assert [(line["event"], line["reason"]) for line in log] == [
        ("words not reloaded; the ones from before stay in use", "not one word")
    ]
    file.write_text("better")
    assert watched.current() == "better"


def test_a_change_during_the_reading_is_not_trusted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("first")
    reads = 0

    def read() -> str:
        nonlocal reads
        reads += 1
        text = file.read_text()
        if reads == 2:
            file.write_text("third, longer")
        return text

    watched = WatchedFiles("words", [file], read, 0)
    file.write_text("second")
    assert [watched.current(), watched.current()] == ["first", "third, longer"]


def test_a_file_swapped_by_a_link_as_kubernetes_does_is_a_change(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1, 1))  # same size, same time
    link = tmp_path / "link"
    link.symlink_to("old")
    watched = WatchedFiles("words", [link], lambda: word(link), 0)
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(link)
    assert watched.current() == "new"


def test_a_file_overwritten_in_place_with_equal_size_and_time_is_a_change(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    os.utime(file, (1, 1))
    watched = WatchedFiles("words", [file], lambda: word(file), 0)
    with file.open("r+") as opened:
        opened.write("new")
    os.utime(file, (1, 1))
    assert watched.current() == "new"


def test_the_disk_is_not_read_at_each_call(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("first")
    watched = WatchedFiles("words", [file], lambda: word(file), 3600)
    file.unlink()
    assert watched.current() == "first"


def test_an_invalid_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no good")
    with pytest.raises(StartError, match="not one word"):
        WatchedFiles("words", [file], lambda: word(file), 0)
