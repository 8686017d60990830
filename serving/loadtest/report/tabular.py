"""Renders results as CSV with one line per run, and as JUnit XML for CI systems."""

import csv
import io
import math
from xml.etree import ElementTree

from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.plan.load import ClosedLoop
from hangtag.serving.loadtest.report.json_document import ResultsDocument
from hangtag.serving.loadtest.statistics.server_timings import PARTS

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
COLUMNS = (
    *("target", "model", "server", "load", "concurrency", "rate", "valid", "queries", "failed", "delayed", "seconds"),
    "warm_up_queries",
    *("calls_per_second", "samples_per_second", *(f"p{q:g}_seconds" for q in PERCENTILES), "max_seconds"),
    *("service_p50_seconds", "service_p99_seconds", "lateness_p99_seconds"),
    *(f"server_{part}_seconds" for part in PARTS),
    *("accuracy", "problems"),
)


def render_csv(results: Results) -> str:
    """Return the CSV text with a header line. Missing figures are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in results.runs:
        writer.writerow([_cell(value) for value in _row(results, run)])
    return text.getvalue()


def _row(results: Results, run: Run) -> tuple[object, ...]:
    total, load = run.total, run.load
    target = next(target for target in results.scenario.targets if target.name == run.target)
    closed = isinstance(load, ClosedLoop)
    accuracy = results.accuracies.get(run.target)
    server = total.server
    return (
        *(target.name, target.model, target.address, load.kind),
        *(load.concurrency, load.rate),
        *(run.valid, total.queries, total.failed, None if closed else total.delayed_queries, total.duration),
        total.warm_up_queries,
        *(run.throughput, run.samples_per_second, *(total.latency.percentile(q) for q in PERCENTILES)),
        total.latency.maximum,
        *(
            total.service_time.percentile(50),
            total.service_time.percentile(99),
            None if closed else total.lateness.percentile(99),
        ),
        *(server.mean(part) if server is not None else None for part in PARTS),
        None if accuracy is None else accuracy.share,
        "; ".join(run.invalid),
    )


def _cell(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else value


SUITE = "hangtag loadtest"


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
        name=SUITE,
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
