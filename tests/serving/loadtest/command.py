"""Runs `hangtag loadtest` in this process, and reads what it wrote and printed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
from click.testing import CliRunner, Result
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from hangtag.cli import main

# One block that is as short as a block can be. A test lengthens what it measures.
QUICK = ("--min-duration", "50ms", "--min-query-count", "10", "--blocks", "1", "--warm-up", "0")
SCHEMA = json.loads((Path(__file__).parents[3] / "docs/loadtest.schema.json").read_text())


def _strict(part: Any) -> Any:
    """The schema without additional properties, so that every written field has to be documented."""
    if isinstance(part, dict):
        closed = {"additionalProperties": False} if "required" in part else {}
        return {key: _strict(value) for key, value in part.items()} | closed
    return [_strict(value) for value in part] if isinstance(part, list) else part


STRICT_SCHEMA = _strict(SCHEMA)


def loadtest(*arguments: object, env: Mapping[str, str] | None = None) -> Result:
    """Run the command, on a terminal so wide that no sentence is broken unless ``env`` says otherwise."""
    return CliRunner().invoke(main, ["loadtest", *map(str, arguments)], env={"COLUMNS": "500", **(env or {})})


def one_line(text: str) -> str:
    """A text without its line breaks and double spaces."""
    return " ".join(text.split())


def refusal(*arguments: object, code: int) -> str:
    """Run a command that ends with this exit code before anything is measured, without a traceback: what it says."""
    result = loadtest(*arguments)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    return one_line(result.stderr)


@dataclass(frozen=True)
class Measured:
    """What a load test printed, and the JSON that it wrote."""

    exit_code: int
    stdout: str
    stderr: str
    document: Any

    @property
    def text(self) -> str:
        return one_line(self.stdout)

    @property
    def runs(self) -> list[Any]:
        runs: list[Any] = self.document["runs"]
        return runs

    def run(self, target: str, load: str = "") -> Any:
        """The run of a target; under the closed or the open loop where it has both."""
        (run,) = (run for run in self.runs if run["target"] == target and load in run["load"]["kind"])
        return run


def measure(folder: Path, *arguments: object, env: Mapping[str, str] | None = None) -> Measured:
    """Run a load test that writes its results into a folder; they follow the documented schema, field by field."""
    file = folder / "results.json"
    result = loadtest(*arguments, "--json", file, env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert file.is_file(), result.output
    document = json.loads(file.read_text())
    jsonschema.validate(document, STRICT_SCHEMA)
    gates_failed = any(gate["failed"] for gate in document["gates"])
    assert result.exit_code == int(gates_failed or not document["valid"]), result.output
    return Measured(result.exit_code, result.stdout, result.stderr, document)


def decoded(histogram: str) -> list[float]:
    """The durations in seconds, as any library of HdrHistogram reads them."""
    recorded = HdrHistogram.decode(histogram.encode()).get_recorded_iterator()
    return [each.value_iterated_to / 1e6 for each in recorded for _ in range(each.count_at_value_iterated_to)]
