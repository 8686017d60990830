"""Results files: a line for each run, and errors that name the line."""

from pathlib import Path

import click
import pytest

from studies import results


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some" / "results.jsonl"


def test_a_recorded_line_replaces_the_line_of_the_same_run(file: Path) -> None:
    for run, figure in (("a", 1), ("b", 2), ("a", 3)):
        results.record(file, {"run": run, "figure": figure})
    assert results.read(file) == {"a": {"run": "a", "figure": 3}, "b": {"run": "b", "figure": 2}}
    assert file.read_text().count("\n") == 2


def test_floats_are_rounded_to_what_a_page_can_show(file: Path) -> None:
    results.write(file, [{"run": "a", "figures": [{"share": 1 / 3}, 123456789.0, 5]}])
    assert results.read(file)["a"]["figures"] == [{"share": 0.333333}, 123457000.0, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON\n", r"line 1, is no result of a run \(JSONDecodeError"),
        ('{"run": "a"}\n{}\n', r"line 2, is no result of a run \(KeyError\('run'\)\)"),
        ("[]\n", r"line 1, is no result of a run \(TypeError"),
        ('{"run": "a"}\n{"run": "a"}\n', "line 2, is a second result of the run a"),
    ],
)
def test_a_malformed_line_is_named(text: str, message: str, file: Path) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(click.ClickException, match=rf"results\.jsonl, {message}"):
        results.read(file)


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(click.ClickException, match=r"results\.jsonl cannot be read"):
        results.read(file)
