"""The options that name a file to write, and the report that each one writes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from hangtag.output import OutputError, require_writable, writing
from hangtag.serving.loadtest.comparison.compare import Comparison
from hangtag.serving.loadtest.comparison.gate_outcomes import GateOutcome
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.report import csv, json_writer, junit, prometheus

_Command = TypeVar("_Command", bound=Callable[..., Any])
Comparisons = Sequence[Comparison]
Outcomes = Sequence[GateOutcome]


class ReportFile(NamedTuple):
    """One option: its flag, its help, and the renderer of its file."""

    flag: str
    help: str
    render: Callable[[Results, Comparisons, Outcomes], str]

    @property
    def parameter(self) -> str:
        """The name of the option's value in Python."""
        return f"{self.flag.removeprefix('--')}_file"


def _json(results: Results, comparisons: Comparisons, outcomes: Outcomes) -> str:
    return json.dumps(json_writer.build(results, comparisons, outcomes), indent=1, allow_nan=False)


def _html(results: Results, comparisons: Comparisons, outcomes: Outcomes) -> str:
    from hangtag.serving.loadtest.report import html  # not above: matplotlib takes half of the command's start

    return html.render(results, comparisons, outcomes)


REPORT_FILES = (
    ReportFile("--json", "Write everything as JSON.", _json),
    ReportFile("--csv", "Write a line for each run.", lambda results, *_: csv.render(results)),
    ReportFile("--html", "Write a page with pictures.", _html),
    ReportFile(
        "--junit",
        "Write JUnit XML: a test for each run and each --fail-if.",
        lambda results, _, outcomes: junit.render(results, outcomes),
    ),
    ReportFile(
        "--prometheus",
        "Write a file for Prometheus' textfile collector.",
        lambda results, _, outcomes: prometheus.render(results, outcomes),
    ),
)


def report_file_options(command: _Command) -> _Command:
    """Give a click command an option for each report; it receives `json_file` and so on."""
    for report in reversed(REPORT_FILES):
        file_type = click.Path(dir_okay=False, path_type=Path)
        command = click.option(report.flag, report.parameter, type=file_type, help=report.help)(command)
    return command


def write(files: dict[str, Path | None], results: Results, comparisons: Comparisons, outcomes: Outcomes) -> None:
    """Write the reports whose option names a file, by parameter name. A file that fails does not cost the others.

    Raises:
        OutputError: files could not be written; the message names each of them.
    """
    problems = []
    for report in REPORT_FILES:
        file = files[report.parameter]
        if file is None:
            continue
        text = report.render(results, comparisons, outcomes)
        try:
            with writing(file):
                file.write_text(text, encoding="utf-8")
        except OutputError as error:
            problems.append(str(error))
    if problems:
        raise OutputError("; ".join(problems))


def require_all_writable(files: dict[str, Path | None]) -> None:
    """Check before the run that each file can be written. Raises OutputError for the first that cannot."""
    for file in files.values():
        if file is not None:
            require_writable(file)
