"""Builds the JSON document from results."""

import math
from collections.abc import Sequence
from dataclasses import asdict

from hangtag.serving.loadtest.comparison.compare import Comparison
from hangtag.serving.loadtest.comparison.gate_outcomes import GateOutcome
from hangtag.serving.loadtest.comparison.transports import transport_costs
from hangtag.serving.loadtest.generator.block_result import BlockResult, TimeSlice
from hangtag.serving.loadtest.measuring.accuracy import Accuracy
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load
from hangtag.serving.loadtest.report import document as doc
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram
from hangtag.serving.loadtest.statistics.intervals import Interval
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings
from hangtag.serving.loadtest.sut.description import Description


def build(
    results: Results, comparisons: Sequence[Comparison], outcomes: Sequence[GateOutcome] = ()
) -> doc.ResultsDocument:
    """The document of these results, ready for json.dumps."""
    models = {name: description.target.model for name, description in results.descriptions.items()}
    targets = [
        _target(description, results.sources.get(name, ""), results.accuracies.get(name))
        for name, description in results.descriptions.items()
    ]
    return {
        "schema": doc.SCHEMA,
        "valid": results.valid,
        "problems": list(results.problems),
        "interrupted": results.interrupted,
        "started": results.started,
        "duration": results.duration,
        "command": results.command,
        "scenario": asdict(results.scenario),
        "server": targets[0]["server"],
        "targets": targets,
        "samples": results.sources,
        "environment": results.environment,
        "runs": [_run(run, models) for run in results.runs],
        "comparisons": [comparison_document(comparison) for comparison in comparisons],
        "transports": [
            {
                "load": _load(cost.load),
                "grpc": cost.grpc,
                "http": cost.http,
                "grpc_seconds": cost.grpc_seconds,
                "http_seconds": cost.http_seconds,
            }
            for cost in transport_costs(results)
        ],
        "peaks": [
            {
                "target": peak.target,
                "rate": peak.rate,
                "sentence": peak.sentence,
                "limited_by_generator": peak.limited_by_generator,
                "steps": [_run(run, models) for run in peak.steps],
            }
            for peak in results.peaks
        ],
        "caching": [
            {"target": check.target, "speedup": _interval(check.speedup), "problem": check.problem}
            for check in results.caching
        ],
        "generator_ceilings": [
            {
                "load": _load(ceiling.load),
                "protocol": ceiling.protocol,
                "throughput": ceiling.throughput,
                "p50": _number(ceiling.p50),
                "p99": _number(ceiling.p99),
                "delayed_share": ceiling.delayed,
            }
            for ceiling in results.ceilings
        ],
        "gates": [
            {"condition": outcome.condition, "failed": outcome.failed, "sentence": outcome.sentence}
            for outcome in outcomes
        ],
    }


def _target(description: Description, source: str, accuracy: Accuracy | None) -> doc.TargetDocument:
    target = description.target
    return {
        "name": target.name,
        "model": target.model,
        "method": target.method,
        "server": {
            "address": target.address,
            "name": description.server_name,
            "version": description.server_version,
        },
        "model_versions": list(description.model_versions),
        "answering_version": description.answering_version,
        "execution_provider": description.provider,
        "onnxruntime_version": description.runtime_version,
        "threads": description.threads,
        "max_batch_size": description.max_batch_size,
        "file_bytes": description.file_bytes,
        "samples": source,
        "accuracy": None
        if accuracy is None
        else {
            "correct": accuracy.correct,
            "total": accuracy.total,
            "accuracy": accuracy.share,
            "low": accuracy.interval[0],
            "high": accuracy.interval[1],
            "expected": accuracy.expected,
        },
    }


def _run(run: Run, models: dict[str, str]) -> doc.RunDocument:
    return {
        "target": run.target,
        "model": models.get(run.target, run.target),
        "load": _load(run.load),
        "valid": run.valid,
        "problems": list(run.problems),
        "notes": list(run.notes),
        "doubt": run.doubt or None,
        "batch_size": run.batch_size,
        "planned_blocks": run.planned_blocks,
        "samples_per_second": run.samples_per_second,
        "percentile": run.percentile,
        "percentile_bound": _number(run.percentile_bound),
        "target_latency": run.target_latency,
        "keeps_target": run.keeps_target,
        "judged": run.judged,
        "restarted": run.restarted,
        "counted_in_part": run.counted_in_part,
        "generator_ceiling": run.ceiling,
        "limited_by_generator": run.limited_by_generator,
        "error_messages": run.total.details,
        "total": _measured(run.total),
        "blocks": [_measured(block) for block in run.blocks],
    }


def comparison_document(comparison: Comparison) -> doc.ComparisonDocument:
    """A comparison as JSON."""
    return {
        "model": comparison.target,
        "baseline": comparison.baseline,
        "load": _load(comparison.load),
        "throughput": _interval(comparison.throughput),
        "p50": _interval(comparison.p50),
        "p99": _interval(comparison.p99),
        "sentence": comparison.sentence,
        "meaningful": comparison.meaningful,
        "doubt": comparison.doubt or None,
    }


def _load(load: Load) -> doc.LoadDocument:
    if isinstance(load, ClosedLoop):
        return {"kind": load.kind, "concurrency": load.concurrency, "rate": None, "arrivals": None}
    return {"kind": load.kind, "concurrency": None, "rate": load.rate, "arrivals": load.arrivals}


def _measured(block: BlockResult) -> doc.MeasuredDocument:
    return {
        "queries": block.queries,
        "warm_up_queries": block.warm_up_queries,
        "duration": block.window,
        "throughput": block.throughput,
        "statuses": dict(block.statuses),
        "delayed_queries": block.delayed,
        "finished": block.finished,
        "generator_cpu": block.generator_cpu,
        "generator_busy": block.generator_busy,
        "generator_cpu_share": block.cpu_share,
        "cpus_busy": block.cpus_busy,
        "others_cpu_share": block.others,
        "latency": _durations(block.latency),
        "service_time": _durations(block.service),
        "lateness": _durations(block.lateness),
        "server": _timings(block.server) if block.server is not None else None,
        "timeline": [_slice(time_slice) for time_slice in block.timeline],
    }


def _timings(timings: ServerTimings) -> doc.ServerTimingsDocument:
    return {
        "requests": timings.count,
        "batches": timings.batches,
        "queue": _number(timings.mean("queue")),
        "compute_input": _number(timings.mean("compute_input")),
        "compute_infer": _number(timings.mean("compute_infer")),
        "compute_output": _number(timings.mean("compute_output")),
    }


def _slice(time_slice: TimeSlice) -> doc.SliceDocument:
    p50, p99, maximum = (_number(time_slice.latency.percentile(q)) for q in (50, 99, 100))
    return {
        "start": time_slice.start,
        "length": time_slice.length,
        "answered": len(time_slice.latency),
        "failed": time_slice.failed,
        "p50": p50,
        "p99": p99,
        "max": maximum,
    }


def _durations(histogram: DurationHistogram) -> doc.DurationsDocument:
    p50, p90, p95, p99, p999 = (_number(histogram.percentile(q)) for q in (50, 90, 95, 99, 99.9))
    return {
        "count": len(histogram),
        "p50": p50,
        "p90": p90,
        "p95": p95,
        "p99": p99,
        "p999": p999,
        "max": _number(histogram.maximum),
        "histogram": histogram.encode().decode(),
    }


def _interval(interval: Interval) -> doc.IntervalDocument:
    low, high = _number(interval.low), _number(interval.high)
    return {"ratio": _number(interval.estimate), "low": low, "high": high}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN.
