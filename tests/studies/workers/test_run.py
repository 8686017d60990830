"""The measurements of several server processes: calls, memory, and memory that they could share."""

import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from studies import results
from studies.results import Line
from studies.workers.report import PROCESSES, SHARING, part, process_rows, sharing_rows

ROOT = Path(__file__).parents[3]
NEEDS_H2LOAD = pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load (Debian: nghttp2-client)")


def measure(command: str, models: Path, out: Path, *options: str) -> Line:
    arguments = [sys.executable, "-m", "studies", "workers", command, "--models", str(models), "--out", str(out)]
    subprocess.run([*arguments, *options], cwd=ROOT, check=True)
    (line,) = results.read(out).values()
    return line


@NEEDS_H2LOAD
@pytest.mark.slow
def test_a_servers_memory_includes_that_of_its_workers(lstm_and_cnn: Path, tmp_path: Path) -> None:
    line = measure("run", lstm_and_cnn, tmp_path / "results.jsonl", "--rounds", "2", "--calls", "100")
    one, two = (line["servers"][number] for number in ("1", "2"))
    for server in (one, two):
        assert {model: len(rates) for model, rates in server["per_second"].items()} == {"lstm": 2, "cnn": 2}
        assert min(min(rates) for rates in server["per_second"].values()) > 0
    assert two["pss_mb"] > 1.5 * one["pss_mb"]
    assert [row[0] for row in process_rows(line)] == ["workers", "1", "2"]


@pytest.mark.slow
def test_memory_that_processes_could_share_is_measured(lstm_and_cnn: Path, tmp_path: Path) -> None:
    megabytes = measure("sharing", lstm_and_cnn, tmp_path / "results.jsonl")["megabytes"]
    nothing, *others = (sum(each.values()) for each in megabytes.values())
    assert nothing < min(others)
    # Mapped weights that are not packed are not anonymous.
    assert megabytes["mapped, as they are"]["anonymous"] < megabytes["as served"]["anonymous"]


CONDITIONS = {"command": "C", "date": "2026-01-02", "processor": "P", "cpus": 2, "versions": {"onnxruntime": "1"}}


def test_the_tables_have_medians_ranges_and_their_source(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    servers = {"1": {"pss_mb": 154.4, "per_second": {"lstm": [7760.4, 6967.0, 8594.0]}}}
    megabytes = {"as served": {"anonymous": 97.6, "files": 34.4}}
    results.write(
        path,
        [
            CONDITIONS | {"run": PROCESSES, "servers": servers},
            CONDITIONS | {"run": SHARING, "megabytes": megabytes},
        ],
    )
    assert part(PROCESSES, process_rows, path).splitlines()[1:] == [
        "`C`, 2026-01-02, P, 2 CPUs, onnxruntime 1.",
        "",
        "| workers | lstm, calls/s | memory, PSS |",
        "| --- | --- | --- |",
        "| 1 | 7,760 (6,967 to 8,594) | 154 MB |",
    ]
    assert part(SHARING, sharing_rows, path).splitlines()[-1] == "| weights in the model's file | 98 MB | 34 MB |"


def test_a_measurement_that_was_not_made_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results.write(path, [CONDITIONS | {"run": PROCESSES, "servers": {}}])
    with pytest.raises(click.ClickException, match="has no line sharing"):
        part(SHARING, sharing_rows, path)
