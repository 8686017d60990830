"""Writes and reads results as JSON, for programs.

Durations are in seconds, rates are in calls or samples per second, and null means that there is no figure. Within a
schema version, fields are only added. Histograms have HdrHistogram's V2 encoding in base64, with the unit 1 µs and
three significant digits, so any HdrHistogram library can read and merge them. `make schema` writes
docs/loadtest.schema.json from the types in this module.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hangtag.serving.loadtest import LoadTestError
from hangtag.serving.loadtest.comparison.answer import Answer, answer
from hangtag.serving.loadtest.comparison.compare import Comparison, SavedResults, compare_targets
from hangtag.serving.loadtest.comparison.gates import GateOutcome
from hangtag.serving.loadtest.measuring.load_test import Results
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.record import from_json, json_schema, shown, stored, to_json

SCHEMA = "hangtag.loadtest/1"


@dataclass(frozen=True)
class ResultsDocument(Results):
    """The content of the JSON file of a load test, from which all other reports are made."""

    schema: str = stored(default=SCHEMA)
    gates: tuple[GateOutcome, ...] = stored(default=())
    transports: tuple[object, ...] = stored("Always empty, because the value is no longer computed.", default=())
    caching: tuple[object, ...] = stored("Always empty, because caching is no longer checked.", default=())
    generator_ceilings: tuple[object, ...] = stored("Always empty, because it is no longer measured.", default=())

    @shown()
    def answer(self) -> Answer | None:
        """The recommendation of a target, in sentences; null for a single target."""
        return answer(self)

    @shown()
    def comparisons(self) -> tuple[Comparison, ...]:
        """The ratios of each target's figures to the first target's, under each load that both targets have."""
        return compare_targets(self)


def of(results: Results, outcomes: tuple[GateOutcome, ...] = ()) -> ResultsDocument:
    """Return a document with the results, and with the outcomes of the --fail-if conditions."""
    return ResultsDocument(**{each.name: getattr(results, each.name) for each in fields(results)}, gates=outcomes)


def render(document: ResultsDocument) -> str:
    return to_json(ResultsDocument, document)


def read(file: Path) -> SavedResults:
    """Read a file that `hangtag loadtest --json` of this release or of an earlier release wrote. Raises LoadTestError
    if the file cannot be read, or is not a results document of this schema version."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadTestError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise LoadTestError(f"{file} is not JSON: {error}") from error
    kind = document.get("schema") if isinstance(document, dict) else None
    if kind != SCHEMA:
        raise LoadTestError(
            f"{file} has {kind or 'other JSON'}, not the results of 'hangtag loadtest --json' ({SCHEMA})"
        )
    try:
        measured = [target for target in document.get("targets", ()) if target["accuracy"]]
        return SavedResults(
            file=file,
            runs=tuple(_run(run, document["scenario"]) for run in document["runs"]),
            accuracies={target["name"]: target["accuracy"]["accuracy"] for target in measured},
            peaks={peak["target"]: peak["rate"] for peak in document.get("peaks", ()) if peak["rate"]},
            environment=document["environment"],
            started=document["started"],
            settings=_settings(document),
        )
    except Exception as error:  # for a damaged histogram, hdrh and zlib raise their own exceptions
        raise LoadTestError(f"{file} does not follow the schema {SCHEMA} ({type(error).__name__}: {error})") from error


def _run(run: dict[str, Any], scenario: dict[str, Any]) -> Run:
    """Read a run. If a file of the first releases lacks a field, the value is computed from other fields."""
    blocks = [
        {"answered": round(each["throughput"] * each["duration"])} | each | {"timeline": (), "server": None}
        for each in run["blocks"]
    ]
    earlier = {"target": run["model"], "batch_size": scenario["batch_size"], "planned_blocks": scenario["blocks"]}
    return from_json(Run, earlier | run | {"blocks": blocks})


def _settings(document: dict[str, Any]) -> dict[str, str]:
    """Return the settings of a test by label. A setting that the file lacks is "not recorded"."""
    settings = {f"--{name.replace('_', '-')}": value for name, value in document["scenario"].items()}
    del settings["--targets"]  # The loop below adds each target with its properties.
    for target in document.get("targets", ()):
        accuracy, name = target["accuracy"], target["name"]
        properties = {
            "model": target["model"],
            "model version": target.get("answering_version") or ", ".join(target.get("model_versions", ())),
            "samples": target.get("samples"),
            "accuracy": f"{accuracy['accuracy']:.2%} of {accuracy['total']:,}" if accuracy else "not measured",
            "execution provider": target.get("execution_provider"),
            "threads": target.get("threads"),
            "method": target.get("method"),
        }
        settings |= {f"{name}'s {label}": value or "not recorded" for label, value in properties.items()}
    return {label: _in_words(value) for label, value in settings.items()}


def _in_words(value: Any) -> str:
    if value is None or value == []:
        return "not set"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def schema() -> str:
    return json.dumps(json_schema(ResultsDocument, SCHEMA, (__doc__ or "").strip()), indent=1)


if __name__ == "__main__":
    print(schema())  # noqa: T201
