"""`hangtag loadtest compare` compares the results of two load tests, before and after a change."""

import html
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.kit.command import invoke, refusal
from tests.serving.loadtest.command import MACHINE, one_line, save, saved_block, saved_run, steady

Blocks = list[dict[str, Any]]


@dataclass
class Case:
    """A target's blocks before and after a change, and what the comparison says about them."""

    expected: str
    after: Blocks
    before: Blocks = field(default_factory=lambda: steady(0.001))
    more: dict[str, Any] = field(default_factory=dict)


def varying(*seconds: float) -> Blocks:
    return [saved_block([each] * 100) for each in seconds]


ONE, FAILED = steady(0.001), steady(0.001, failed=1)
P99 = "p99 at 8 in flight"
INVALID = "cannot be compared: the run in AFTER is INVALID."
CASES = {
    "slower": Case(f"{P99} is 4.0 times what it was (95 %: 4.0 to 4.0); its throughput", steady(0.004)),
    "at-the-edge": Case(f"{P99} is 10 times what it was (95 %: 10 to 10)", steady(0.00996)),
    "much-slower": Case(f"{P99} is 1,23", steady(1.234)),
    "faster": Case(f"{P99} is 0.26 times what it was", steady(0.000256)),
    "fewer": Case("its throughput is 0.50 times what it was (95 %: 0.50 to 0.50).", steady(0.001, 50)),
    "same": Case(f"{P99} shows no difference from what it was (", varying(11, 11, 12, 10), varying(10, 12, 11, 10)),
    "noisy": Case(
        f"{P99} cannot be compared with what it was, because the blocks vary too much (95 %: ",
        varying(3, 1, 2, 1),
        varying(1, 2, 3, 1),
    ),
    "single": Case(f"{P99} is 2.0 times what it was; its throughput is 1.0 times what it was.", varying(2), varying(1)),
    "limited": Case("throughputs cannot be compared, because the generator was", steady(0.001, generator_busy=0.96)),
    "doubtful": Case(
        " Doubtful: other programs took up to 34% of the CPUs during a run.",
        steady(0.001, others_cpu_share=0.34),
        steady(0.001, others_cpu_share=0.02),
    ),
    "failed": Case(INVALID, FAILED),
    "both-failed": Case("the run in AFTER and the run in BEFORE are INVALID.", FAILED, FAILED),
    "restarted": Case(INVALID, ONE, more={"restarted": True}),
    "incomplete": Case(INVALID, ONE, more={"planned_blocks": 5}),
}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Files with all CASES. The second file lacks "gone", and the first lacks "new". In the second, "silent" failed."""
    silent = saved_block([], failed=3)
    before = [saved_run(name, 8, *case.before) for name, case in CASES.items()]
    after = [saved_run(name, 8, *case.after, **case.more) for name, case in CASES.items()]
    before += [saved_run("silent", 8, *ONE), saved_run("gone", 8, *ONE), saved_run("slower", 500.0, *ONE)]
    after += [saved_run("silent", 8, silent), saved_run("new", 8, *ONE), saved_run("slower", 500.0, *steady(0.004))]
    return save(tmp_path / "before.json", *before), save(tmp_path / "after.json", *after)


def test_each_target_and_load_in_both_files_is_compared(files: tuple[Path, Path], tmp_path: Path) -> None:
    before, after = files
    page, comparison = tmp_path / "page.html", tmp_path / "comparison.json"
    result = invoke("loadtest", "compare", before, after, "--html", page, f"--json={comparison}")
    document = json.loads(comparison.read_text())
    assert document["schema"] == "hangtag.loadtest.comparison/1"
    assert (document["before"]["file"], document["after"]["file"]) == (str(before), str(after))
    compared = {(each["model"], each["load"]["kind"]): each for each in document["comparisons"]}
    assert compared.keys() == {*((name, "closed loop") for name in CASES), ("slower", "open loop")}
    text, shown = one_line(result.stdout), html.unescape(page.read_text())
    for name, case in CASES.items():
        sentence = compared[name, "closed loop"]["sentence"]
        assert sentence.startswith(name)
        assert case.expected.replace("AFTER", str(after)).replace("BEFORE", str(before)) in sentence
        assert sentence in text
        assert sentence in shown
        assert compared[name, "closed loop"]["meaningful"] is ("INVALID" not in case.expected)
    assert compared["slower", "open loop"]["sentence"] == (
        "slower's p99 at 500 calls/s is 4.0 times what it was (95 %: 4.0 to 4.0)."
    )
    slower = compared["slower", "closed loop"]
    assert {figure: slower[figure]["ratio"] for figure in ("p50", "p99", "throughput")} == pytest.approx(
        {"p50": 4.0, "p99": 4.0, "throughput": 1.0}, rel=0.01
    )
    assert (slower["baseline"], slower["doubt"]) == ("slower", None)
    assert compared["single", "closed loop"]["p99"]["low"] is None
    assert "34%" in compared["doubtful", "closed loop"]["doubt"]
    printed = json.loads(invoke("loadtest", "compare", "--json", before, after).stdout)  # before.json is an argument
    assert printed["comparisons"] == document["comparisons"]
    # An option after --json is not taken for a file name, so no warning about the old `--json FILE` appears.
    refusal("loadtest", "lstm", "--json", f"--baseline={tmp_path}/gone.json", alone=True)


def test_the_table_has_the_figures_of_both_and_their_ratio(files: tuple[Path, Path]) -> None:
    lines = invoke("loadtest", "compare", *files, columns=80).stdout.splitlines()
    tables = {}
    for number, line in enumerate(lines):
        if "closed loop, 8 in flight" in line:
            tables[line.split(",")[0]] = [each.split() for each in lines[number + 1 : number + 5]]
    head, before, after, ratio = tables["slower"]
    assert head == ["calls/s", "p50", "p90", "p95", "p99", "max", "failed"]
    assert before == ["before", "100", *["1.00", "ms"] * 5, "0"]
    assert after == ["after", "100", *["4.00", "ms"] * 5, "0"]
    assert ratio == ["after", "/", "before", "1.00\u00d7", "4.00\u00d7", "4.00\u00d7"]
    assert tables["faster"][3][3:] == ["1.00\u00d7", "0.256\u00d7", "0.256\u00d7"]
    assert tables["failed"][3] == ["after", "/", "before", "INVALID"]
    assert tables["limited"][3][3:] == ["1.00\u00d7", "1.00\u00d7"]


def test_the_ratio_to_a_throughput_of_zero_is_unknown(tmp_path: Path) -> None:
    """If all answers arrive after the end of their blocks, the throughput is zero."""
    late = steady(1.0, throughput=0.0)
    before = (saved_run("cnn", 500.0, *late), saved_run("lstm", 500.0, *late, planned_blocks=5))
    after = (saved_run("cnn", 500.0, *ONE), saved_run("lstm", 500.0, *ONE))
    files = save(tmp_path / "before.json", *before), save(tmp_path / "after.json", *after)
    text = one_line(invoke("loadtest", "compare", *files, "--html", tmp_path / "page.html").stdout)
    assert "after / before \u2013 0.00100\u00d7 0.00100\u00d7 cnn's p99" in text
    assert "after / before INVALID lstm at 500 calls/s cannot be compared" in text


def target(version: str, **more: Any) -> dict[str, Any]:
    """A target, as described in a results file."""
    return {"name": "cnn", "model": "cnn", "model_versions": [version], "accuracy": None, **more}


def test_what_was_measured_otherwise_and_where_is_listed(tmp_path: Path) -> None:
    def listed(environment: dict[str, str], **more: Any) -> tuple[str, dict[str, Any], str]:
        before = save(tmp_path / "before.json", saved_run("cnn", 8, *ONE), targets=[target("1")])
        after = save(tmp_path / "after.json", saved_run("cnn", 8, *ONE), environment=environment, **more)
        page, comparison = tmp_path / "page.html", tmp_path / "comparison.json"
        result = invoke("loadtest", "compare", before, after, "--html", page, f"--json={comparison}")
        return one_line(result.output), json.loads(comparison.read_text()), html.unescape(page.read_text())

    text, document, page = listed(MACHINE, targets=[target("1")])
    assert text.startswith("Both runs have the same models, samples, options and environment. ")
    assert (document["setting_differences"], document["environment_differences"]) == ({}, {})
    accuracy = {"accuracy": 0.1, "correct": 2, "total": 20}
    other = target("1", answering_version="2", samples="20 from a.npz", accuracy=accuracy, threads="2 instances")
    scenario = {"batch_size": 1, "blocks": 2, "targets": [], "channels": 2}
    text, document, page = listed(MACHINE | {"CPU": "another"}, targets=[other], scenario=scenario)
    assert text.startswith("WARNING different machines. CPU: a processor and another ")
    assert document["environment_differences"] == {"CPU": {"before": "a processor", "after": "another"}}
    different = {
        "--channels": ("1", "2"),
        "cnn's model version": ("1", "2"),
        "cnn's samples": ("not recorded", "20 from a.npz"),
        "cnn's accuracy": ("not measured", "10.00% of 20"),
        "cnn's threads": ("not recorded", "2 instances"),
    }
    assert document["setting_differences"] == {
        label: {"before": one, "after": two} for label, (one, two) in different.items()
    }
    for label, (one, two) in different.items():
        assert f"differs {label}: {one} before, {two} after" in text
        assert label in page
    assert "differs CPU" not in text  # a warning already names the CPU
    assert "another" in page


def test_files_of_the_first_version_are_read_as_valid(tmp_path: Path) -> None:
    """The first version's files lack the fields that were added later. Of these fields, ``saved_run`` writes only
    planned_blocks."""
    old = saved_run("cnn", 8, *ONE)
    del old["planned_blocks"]
    result = invoke("loadtest", "compare", save(tmp_path / "a.json", old), save(tmp_path / "b.json", old))
    assert "cnn's p99 at 8 in flight shows no difference" in one_line(result.stdout)


DAMAGED = saved_block([0.001], latency={"histogram": "HISTFAAAABZ4nJNpmSzMwMDA"})
SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda file: None, "cannot be read"),
    "text": (lambda file: file.write_text("{"), "JSON"),
    "a list": (lambda file: file.write_text("[]"), "hangtag.loadtest/1"),
    "another schema": (lambda file: file.write_text('{"schema": "other/1"}'), "other/1"),
    "a damaged histogram": (lambda file: save(file, saved_run("cnn", 8, DAMAGED)), "schema"),
    "no runs": (lambda file: file.write_text('{"schema": "hangtag.loadtest/1"}'), "schema"),
    "nothing in common": (lambda file: save(file, saved_run("lstm", 8, *ONE)), "no target and load in common"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_file_that_cannot_be_compared_is_refused(tmp_path: Path, case: str) -> None:
    make, fact = SPOILED[case]
    make(tmp_path / "b.json")
    message = refusal("loadtest", "compare", save(tmp_path / "a.json", saved_run("cnn", 8, *ONE)), tmp_path / "b.json")
    assert "b.json" in message
    assert fact in message
