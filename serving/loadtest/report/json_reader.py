"""Reads saved results, for `hangtag loadtest compare` and for the baseline of a gate."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from hangtag.serving.loadtest.comparison.saved_results import SavedResults
from hangtag.serving.loadtest.errors import SavedResultsError
from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.report.document import SCHEMA
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram
from hangtag.serving.loadtest.statistics.server_timings import PARTS, ServerTimings


def read(file: Path) -> SavedResults:
    """Read a file that `hangtag loadtest --json` wrote.

    Raises:
        SavedResultsError: When the file cannot be read, or is not a results document of this schema version.
    """
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
            settings=_settings(document),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SavedResultsError(f"{file} does not follow its own schema ({type(error).__name__}: {error})") from error


def _settings(document: dict[str, Any]) -> dict[str, str]:
    """What was measured and how, by label; "not recorded" where the file does not say of a target."""
    settings = {f"--{name.replace('_', '-')}": value for name, value in document["scenario"].items()}
    del settings["--targets"]  # Each target follows with its properties.
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


# The defaults are for fields that older files lack.
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
        counted_in_part=run.get("counted_in_part", False),
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
    server = block.get("server")
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
        cpu_share=block.get("generator_cpu_share", 0.0),
        cpus_busy=block.get("cpus_busy", 0.0),
        others=block.get("others_cpu_share"),
        server=_timings(server) if server else None,
    )


def _timings(server: dict[str, Any]) -> ServerTimings:
    sums = {part: (server[part] or 0.0) * server["requests"] for part in PARTS}
    return ServerTimings(count=server["requests"], batches=server["batches"], **sums)
