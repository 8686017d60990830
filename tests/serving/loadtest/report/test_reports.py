"""The table and the JSON, CSV and JUnit reports of a load test agree with each other."""

import csv
import json
import os
import re
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest

from hangtag.serving.loadtest.report import json_document
from tests.kit.command import invoke
from tests.kit.fake_server import FakeServer
from tests.serving.loadtest.command import HOSTILE, LOOP, SCHEMA, Loadtest, Measured, decoded

Written = tuple[Path, Measured]


def test_the_documented_schema_is_that_of_the_types() -> None:
    assert json.loads(json_document.schema()) == SCHEMA, "run 'make schema'"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    fields = SCHEMA["$defs"]["Run"]["properties"]
    assert fields["model"] == {"description": "The model's name on the server.", "type": "string"}
    assert fields["keeps_target"]["description"].startswith("Whether the percentile meets the target latency,")


def test_the_json_holds_histograms_and_their_figures(complete: Written) -> None:
    _, measured = complete
    assert [(run["target"], run["load"]["kind"]) for run in measured.runs] == [
        (name, kind) for kind in ("closed loop", "open loop") for name in ("fast", "slow")
    ]
    assert all(run["total"]["finished"] for run in measured.runs[:2])
    for run in measured.runs:
        parts = (run["total"], *run["blocks"])
        assert len(parts) == 3
        for part in parts:
            latency = part["latency"]
            durations = decoded(latency["histogram"])
            assert len(durations) == latency["count"] == part["queries"] == part["statuses"]["OK"]
            for name, q in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99), ("p999", 99.9), ("max", 100)):
                assert latency[name] == pytest.approx(np.percentile(durations, q, method="inverted_cdf"), rel=2e-3)
            assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
            assert latency["max"] >= part["service_time"]["max"] * 0.999
            assert sum(each["answered"] for each in part["timeline"]) == part["queries"]
            assert sum(each["failed"] for each in part["timeline"]) == 0
        total = run["total"]
        for field in ("queries", "warm_up_queries", "duration", "delayed_queries"):
            assert total[field] == pytest.approx(sum(part[field] for part in run["blocks"]))
        assert total["latency"]["p50"] > (0.02 if run["target"] == "slow" else 0.002)
        for field in ("generator_cpu_share", "cpus_busy"):
            assert total[field] == pytest.approx(np.mean([part[field] for part in run["blocks"]]))
        assert total["throughput"] == sum(part["answered"] for part in run["blocks"]) / total["duration"]
        assert run["load"]["rate"] == (None if run["load"]["concurrency"] else 20.0)
        assert run["load"]["arrivals"] == (None if run["load"]["concurrency"] else "poisson")
        assert total["server"]["requests"] == total["queries"] + total["warm_up_queries"]
        assert total["server"]["batches"] == total["server"]["requests"]
        assert total["server"]["queue"] == pytest.approx(0.002)
    starts = sorted(each["start"] for run in measured.runs for each in run["total"]["timeline"])
    assert starts[-1] > 4 * 0.6  # start times are relative to the beginning of the test, not of the block
    assert {target["answering_version"] for target in measured.document["targets"]} == {"7"}
    machine = measured.document["environment"]
    assert machine["CPU"]
    assert re.fullmatch(r"\d+ of \d+", machine["CPUs usable"])
    assert machine["grpcio"][0].isdigit()
    assert machine["generator"].startswith("1 process on ")


def test_the_first_target_is_the_baseline_under_every_load(complete: Written) -> None:
    _, measured = complete
    for comparison in measured.document["comparisons"]:
        kind = comparison["load"]["kind"]
        fast, slow = (measured.run(name, kind) for name in ("fast", "slow"))
        for figure in ("p50", "p99"):
            ratio = slow["total"]["latency"][figure] / fast["total"]["latency"][figure]
            assert comparison[figure]["ratio"] == pytest.approx(ratio)
            assert comparison[figure]["low"] <= comparison[figure]["ratio"] <= comparison[figure]["high"]
        assert comparison["meaningful"] is (fast["valid"] and slow["valid"])
        assert comparison["sentence"] in measured.text
        assert ("throughput" in comparison["sentence"]) is (kind == "closed loop")
    assert [(each["model"], each["baseline"]) for each in measured.document["comparisons"]] == [("slow", "fast")] * 2


def test_a_test_of_several_targets_ends_with_the_answer_in_three_lines(complete: Written, spoiled: Written) -> None:
    for _, measured in (complete, spoiled):
        which, how_much, how_sure = measured.document["answer"].values()
        assert measured.text.endswith(f"Which: {which} By how much: {how_much} How sure: {how_sure}")
    assert complete[1].document["answer"]["which"].startswith("Choose slow")  # only `slow` is always right
    assert f"Targets without a VALID run under this load were left out: {HOSTILE}, never." in how_sure


def test_the_table_sets_targets_side_by_side_within_80_columns(complete: Written) -> None:
    _, measured = complete
    lines = measured.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    start = next(number for number, line in enumerate(lines) if "closed loop, 2 in flight" in line)
    head, fast, slow, ratio = (line.split() for line in lines[start + 1 : start + 5])
    assert head == ["calls/s", "p50", "p90", "p95", "p99", "max", "failed"]
    for row, name in ((fast, "fast"), (slow, "slow")):
        total = measured.run(name, "closed")["total"]
        assert row[0] == name
        assert float(row[1].replace(",", "")) == pytest.approx(total["throughput"], rel=0.01)
        assert float(row[2]) == pytest.approx(total["latency"]["p50"] * 1e3, rel=0.01)
        assert (row[3], row[-1]) == ("ms", "0")
    assert ratio[:3] == ["slow", "/", "fast"]
    assert ratio[3].endswith("\u00d7")
    text = measured.text
    late = measured.run("slow", "open")["total"]
    assert f"{late['delayed_queries']:,} of {late['queries']:,} delayed; service time p50 " in text
    warm_up = sum(run["total"]["warm_up_queries"] for run in measured.runs)
    assert f"{warm_up:,} queries of the warm-up were sent before, and discarded." in text
    assert "Sent: 100 samples from " in text
    assert "fast classifies 95.00% of 100 samples (95 %: 88.82% to 97.85%) correctly." in text
    assert (" VALID the figures of every run" in text or " VALID, but DOUBTFUL: " in text) is measured.document["valid"]


@pytest.fixture(params=["complete", "spoiled"])
def written(request: pytest.FixtureRequest) -> Written:
    of_both: Written = request.getfixturevalue(request.param)
    return of_both


def place(run: Any) -> str:
    """The name of a run's load in the reports."""
    return "2 in flight" if run["load"]["concurrency"] else "20 calls/s"


def test_csv_has_a_line_for_every_run(written: Written) -> None:
    folder, measured = written
    targets = {target["name"]: target for target in measured.document["targets"]}
    with (folder / "report.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line, run in zip(lines, measured.runs, strict=True):
        load, total, accuracy = run["load"], run["total"], targets[run["target"]]["accuracy"]
        for name, value in {
            "target": run["target"],
            "model": run["model"],
            "server": targets[run["target"]]["server"]["address"],
            "load": load["kind"],
            "concurrency": load["concurrency"],
            "rate": load["rate"],
            "valid": str(run["valid"]).lower(),
            "failed": total["queries"] - total["statuses"].get("OK", 0),
            "problems": "; ".join(run["problems"]),
            "accuracy": accuracy and accuracy["accuracy"],
            "queries": total["queries"],
            "delayed": total["delayed_queries"] if load["rate"] else None,
            "warm_up_queries": total["warm_up_queries"],
            "seconds": total["duration"],
            "calls_per_second": total["throughput"],
            "samples_per_second": run["samples_per_second"],
            "p50_seconds": total["latency"]["p50"],
            "p99.9_seconds": total["latency"]["p999"],
            "max_seconds": total["latency"]["max"],
            "service_p50_seconds": total["service_time"]["p50"],
            "service_p99_seconds": total["service_time"]["p99"],
            "lateness_p99_seconds": total["lateness"]["p99"] if load["rate"] else None,
            "server_queue_seconds": total["server"]["queue"],
            "server_compute_infer_seconds": total["server"]["compute_infer"],
        }.items():
            if isinstance(value, float):
                assert float(line[name]) == pytest.approx(value, rel=1e-4), name
            else:
                assert line[name] == ("" if value is None else str(value)), name


def test_csv_has_its_header_without_runs(
    complete: Written, server: FakeServer, loadtest: Loadtest, tmp_path: Path
) -> None:
    """A test that is interrupted before its first block has no runs."""
    server.behaviour = lambda number, context: os.kill(os.getpid(), signal.SIGINT)
    assert not loadtest("fast", *LOOP, "--csv", tmp_path / "empty.csv").runs
    header, *_ = (complete[0] / "report.csv").read_text().splitlines(keepends=True)
    assert (tmp_path / "empty.csv").read_text() == header


def test_junit_has_a_test_for_every_run_and_gate(written: Written) -> None:
    folder, measured = written
    suite = ElementTree.parse(folder / "report.junit").getroot()
    expected = {"the whole test": ""}
    expected |= {f"{run['target']}, {place(run)}": "; ".join(run["problems"]) for run in measured.runs}
    for gate in measured.document["gates"]:
        expected[gate["condition"]] = gate["sentence"] if gate["failed"] else ""
    assert suite.tag == "testsuite"
    assert [(case.get("name"), case.findtext("failure", "")) for case in suite] == list(expected.items())
    failed = sum(map(bool, expected.values()))
    assert (suite.get("tests"), suite.get("failures")) == (str(len(expected)), str(failed))


def test_what_went_wrong_is_said(spoiled: Written) -> None:
    _, measured = spoiled
    bad = measured.run(HOSTILE, "closed")
    failed = bad["total"]["statuses"]["UNAVAILABLE"]
    assert f"{failed:,} of {bad['total']['queries']:,} calls failed ({failed:,} UNAVAILABLE)" in bad["problems"]
    assert [run["target"] for run in measured.runs if not run["valid"]] == [HOSTILE, "never"]
    assert sum(each["failed"] for each in bad["total"]["timeline"]) == failed
    assert bad["samples_per_second"] == pytest.approx(8 * bad["total"]["throughput"])
    # A condition fails if its metric is missing. A run without answers is not compared.
    never_gate, fine_gate = measured.document["gates"]
    assert (never_gate["failed"], "cannot be judged" in never_gate["sentence"]) == (True, True)
    assert not fine_gate["failed"]
    assert "never" not in {comparison["model"] for comparison in measured.document["comparisons"]}
    (comparison,) = (each for each in measured.document["comparisons"] if each["model"] == HOSTILE)
    assert not comparison["meaningful"]
    assert comparison["sentence"] == f"{HOSTILE} and fine at 2 in flight cannot be compared: {HOSTILE} is INVALID."
    assert comparison["sentence"] in measured.text
    assert re.search(r"fine +[\d,.]+ +[\d,.]+ +[\d.]+ ", measured.stdout)  # calls/s and samples/s
    assert re.search(rf"{re.escape(HOSTILE)} / fine +INVALID", measured.stdout)
    assert re.search(r"never +0 +0( +\N{EN DASH}){5} ", measured.stdout)
    assert "Sent to" not in measured.text


def test_a_servers_message_does_nothing_to_the_terminal(spoiled: Written) -> None:
    _, measured = spoiled
    assert r"UNAVAILABLE: \x1b[2J went away <soon>\nVALID" in measured.text
    assert all(line.isprintable() for line in measured.stdout.split("\n"))


def test_a_file_that_cannot_be_written_is_reported_before_the_run(
    server: FakeServer, loadtest: Loadtest, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    file = tmp_path / "file" / "results.json"
    loadtest.refused(f"cannot write {file}", "fast", "--html", file)
    assert server.requests == []


def test_a_file_that_fails_after_the_run_does_not_cost_the_others(server: FakeServer, tmp_path: Path) -> None:
    lost, kept = tmp_path / "lost", tmp_path / "new" / "kept.xml"
    server.behaviour = lambda number, context: lost.mkdir() if number == 1 else None  # a folder has the report's name
    command = ("loadtest", "fast", "--server", server.address, *LOOP, "--csv", lost, "--junit", kept)
    result = invoke(*command, exit_code=1)
    assert f"cannot write {lost}" in result.stderr
    assert kept.read_text()
