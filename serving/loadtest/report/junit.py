"""Renders results as JUnit XML for CI systems: one test case per run and per gate."""

from collections.abc import Sequence
from xml.etree import ElementTree

from hangtag.serving.loadtest.comparison.gate_outcomes import GateOutcome
from hangtag.serving.loadtest.measuring.results import Results

SUITE = "hangtag loadtest"


def render(results: Results, outcomes: Sequence[GateOutcome]) -> str:
    """The XML text. A test case that is INVALID, or a gate that failed, holds the reason."""
    cases = [("the whole test", "validity", 0.0, "; ".join(results.problems))]
    cases += [(f"{run.target}, {run.load}", "runs", run.total.window, "; ".join(run.problems)) for run in results.runs]
    cases += [(outcome.condition, "gates", 0.0, outcome.sentence if outcome.failed else "") for outcome in outcomes]
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
