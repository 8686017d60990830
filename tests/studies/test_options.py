"""What an experiment with other options records, and where."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from studies import options, results


@click.command()
@click.option("--samples", type=int, default=9)
@click.option("--quick", is_flag=True)
@options.OUT
@click.pass_context
def experiment(context: click.Context, samples: int, quick: bool, out: Path | None) -> None:
    page: Path = context.obj
    lines = [{"run": "conditions", "command": f"experiment{options.given()}"}]
    options.write(out, page, lines, complete=not options.given())


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.jsonl"


def test_without_options_it_records_the_pages_results(page: Path) -> None:
    result = CliRunner().invoke(experiment, [], obj=page)
    assert result.output == f"wrote {page}\n"
    assert results.read(page)["conditions"]["command"] == "experiment"


def test_other_options_leave_the_pages_results_as_they_are(page: Path) -> None:
    result = CliRunner().invoke(experiment, ["--quick", "--samples", "3"], obj=page)
    assert "Not recorded: the options are not those of the results in page.jsonl. --out FILE" in result.output
    assert not page.exists()


def test_other_options_are_recorded_in_another_file_that_is_named(page: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    result = CliRunner().invoke(experiment, ["--samples", "3", "--out", str(out)], obj=page)
    assert result.output == f"wrote {out}\n"
    assert results.read(out)["conditions"]["command"] == "experiment --samples 3"
    assert not page.exists()
