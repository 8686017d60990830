"""Saved results, read again: `hangtag loadtest compare`, and the baseline of a gate."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hangtag.serving.loadtest.errors import SavedResultsError
from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.report.document import SCHEMA
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram
from hangtag.serving.loadtest.statistics.server_timings import PARTS, ServerTimings

# What makes two machines different ones, in the results' environment.
MACHINE = ("CPU", "CPUs usable", "system")


@dataclass(frozen=True)
class SavedResults:
    """A file that `hangtag loadtest --json` wrote."""

    file: Path
    runs: tuple[Run, ...]
    accuracies: dict[str, float]  # By target.
    peaks: dict[str, float]  # By target; calls a second.
    environment: dict[str, str]
    started: str

    def run(self, target: str, load: Load) -> Run | None:
        """The run of this target under this load."""
        return next((run for run in self.runs if run.target == target and run.load == load), None)

    def other_machine(self, environment: Mapping[str, str]) -> tuple[str, ...]:
        """What tells that results with this environment are of another machine, a line each; empty if nothing does."""
        return tuple(
            f"{label}: {self.environment.get(label, 'unknown')} and {environment.get(label, 'unknown')}"
            for label in MACHINE
            if self.environment.get(label) != environment.get(label)
        )


def read(file: Path) -> SavedResults:
    """Read results. Raises SavedResultsError when the file is none, or of another version."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SavedResultsError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SavedResultsError(f"{file} is not JSON: {error}") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise SavedResultsError(
            f"{file} holds no results of 'hangtag loadtest --json' ({SCHEMA}), but {schema or 'other JSON'}"
        )
    try:
        return SavedResults(
            file=file,
            runs=tuple(_run(run, document["scenario"]) for run in document["runs"]),
            accuracies={
                target["name"]: target["accuracy"]["accuracy"]
                for target in document.get("targets", ())
                if target["accuracy"]
            },
            peaks={peak["target"]: peak["rate"] for peak in document.get("peaks", ()) if peak["rate"]},
            environment=document["environment"],
            started=document["started"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SavedResultsError(f"{file} does not follow its own schema ({type(error).__name__}: {error})") from error


def _run(run: dict[str, Any], scenario: dict[str, Any]) -> Run:
    target, load = run.get("target", run["model"]), _load(run["load"])
    return Run(
        blocks=tuple(_block(block, target, load, run["error_messages"]) for block in run["blocks"]),
        batch_size=run.get("batch_size", scenario["batch_size"]),
        planned_blocks=run.get("planned_blocks", scenario["blocks"]),
        percentile=run.get("percentile", 99.0),
        target_latency=run.get("target_latency"),
        judged=run.get("judged", False),
        restarted=run.get("restarted", False),
        ceiling=run.get("generator_ceiling"),
    )


def _load(load: dict[str, Any]) -> Load:
    if load["kind"] == "closed loop":
        return ClosedLoop(load["concurrency"])
    return OpenLoop(load["rate"], load["arrivals"])


def _block(block: dict[str, Any], target: str, load: Load, details: dict[str, str]) -> BlockResult:
    latency, service, lateness = (
        DurationHistogram(block[name]["histogram"].encode()) for name in ("latency", "service_time", "lateness")
    )
    said = block.get("server")
    return BlockResult(
        target=target,
        load=load,
        window=block["duration"],
        answered_in_window=round(block["throughput"] * block["duration"]),
        warm_up_queries=block["warm_up_queries"],
        statuses=Counter(block["statuses"]),
        details=details,
        latency=latency,
        service=service,
        lateness=lateness,
        delayed=block["delayed_queries"],
        finished=block.get("finished", True),
        generator_cpu=block.get("generator_cpu", 0.0),
        generator_busy=block.get("generator_busy", 0.0),
        server=_timings(said) if said else None,
    )


def _timings(said: dict[str, Any]) -> ServerTimings:
    sums = {part: (said[part] or 0.0) * said["requests"] for part in PARTS}
    return ServerTimings(count=said["requests"], batches=said["batches"], **sums)
