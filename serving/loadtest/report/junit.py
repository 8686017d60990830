"""The results as JUnit XML, which CI systems show: a test for every run and for every gate."""

from collections.abc import Sequence
from xml.etree import ElementTree

from hangtag.serving.loadtest.comparison.gates import Outcome
from hangtag.serving.loadtest.measuring.results import Results

SUITE = "hangtag loadtest"


def render(results: Results, outcomes: Sequence[Outcome]) -> str:
    """The document: the test as a whole, each run, and each gate; one that is INVALID or failed says why."""
    cases = [("the whole test", "validity", 0.0, "; ".join(results.problems))]
    cases += [(f"{run.target}, {run.load}", "runs", run.total.window, "; ".join(run.problems)) for run in results.runs]
    cases += [(outcome.condition, "gates", 0.0, outcome.sentence if outcome.failed else "") for outcome in outcomes]
    failures = sum(bool(why) for *_, why in cases)
    suite = ElementTree.Element(
        "testsuite",
        name=SUITE,
        tests=str(len(cases)),
        failures=str(failures),
        errors="0",
        time=f"{results.duration:.3f}",
        timestamp=results.started,
    )
    for name, kind, seconds, why in cases:
        case = ElementTree.SubElement(suite, "testcase", name=name, classname=f"loadtest.{kind}", time=f"{seconds:.3f}")
        if why:
            ElementTree.SubElement(case, "failure", message=why).text = why
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
