"""Renders results as CSV with one line per run, and as JUnit XML for CI systems."""

import csv
import io
import math
from xml.etree import ElementTree

from hangtag.serving.loadtest.measuring.load_test import Results
from hangtag.serving.loadtest.report.json_document import ResultsDocument
from hangtag.serving.loadtest.statistics.durations import PARTS

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
COLUMNS = (
    *("target", "model", "server", "load", "concurrency", "rate", "valid", "queries", "failed", "delayed", "seconds"),
    *("warm_up_queries", "calls_per_second", "samples_per_second", *(f"p{q:g}_seconds" for q in PERCENTILES)),
    *("max_seconds", "service_p50_seconds", "service_p99_seconds", "lateness_p99_seconds"),
    *(f"server_{part}_seconds" for part in PARTS),
    *("accuracy", "problems"),
)


def render_csv(results: Results) -> str:
    """Return the CSV text with a header line, and a line for each run. Missing figures are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in results.runs:
        total, load, server = run.total, run.load, run.total.server
        target = next(target for target in results.targets if target.name == run.target)
        figures = {
            "target": run.target,
            "model": target.model,
            "server": target.server.address,
            "load": load.kind,
            "concurrency": load.concurrency,
            "rate": load.rate,
            "valid": run.valid,
            "queries": total.queries,
            "failed": total.failed,
            "delayed": total.delayed_queries if load.rate else None,
            "seconds": total.duration,
            "warm_up_queries": total.warm_up_queries,
            "calls_per_second": run.throughput,
            "samples_per_second": run.samples_per_second,
            **{f"p{q:g}_seconds": total.latency.percentile(q) for q in PERCENTILES},
            "max_seconds": total.latency.maximum,
            **{f"service_p{q}_seconds": total.service_time.percentile(q) for q in (50, 99)},
            "lateness_p99_seconds": total.lateness.percentile(99) if load.rate else None,
            **{f"server_{part}_seconds": server.mean(part) if server else None for part in PARTS},
            "accuracy": target.accuracy.share if target.accuracy else None,
            "problems": "; ".join(run.invalid),
        }
        writer.writerow({name: _cell(value) for name, value in figures.items()})
    return text.getvalue()


def _cell(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else value


def render_junit(results: ResultsDocument) -> str:
    """Return the XML text. The test case of an INVALID run or of a failed gate contains the reason."""
    cases = [("the whole test", "validity", 0.0, "; ".join(results.invalid))]
    cases += [(str(run), "runs", run.total.duration, "; ".join(run.invalid)) for run in results.runs]
    cases += [
        (outcome.condition, "gates", 0.0, outcome.sentence if outcome.failed else "") for outcome in results.gates
    ]
    failures = sum(bool(reason) for *_, reason in cases)
    suite = ElementTree.Element(
        "testsuite",
        name="hangtag loadtest",
        tests=str(len(cases)),
        failures=str(failures),
        errors="0",
        time=f"{results.duration:.3f}",
        timestamp=results.started,
    )
    for name, kind, seconds, reason in cases:
        case = ElementTree.SubElement(suite, "testcase", name=name, classname=f"loadtest.{kind}", time=f"{seconds:.3f}")
        if reason:
            ElementTree.SubElement(case, "failure", message=reason).text = reason
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
