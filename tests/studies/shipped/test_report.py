"""The page about the shipped models, and the README's table of them."""

from pathlib import Path

import click
import pytest

from studies import results
from studies.shipped import measured, readme_part, run
from studies.shipped.models import read_all, read_earlier
from studies.shipped.report import PICTURES, page
from tests.shipped import latest

ROOT = Path(__file__).parents[3]


def test_earlier_versions_stand_below_the_latest_with_their_figures_alone(tmp_path: Path) -> None:
    for name, version in (("lstm", 1), ("lstm", 9), ("lstm", 10), ("cnn", 1)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / str(version)).symlink_to(latest(name).parent)
    text = page(read_all(tmp_path), [], [], read_earlier(tmp_path))
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    assert rows == ["| `lstm` version 10", "| `lstm` version 9", "| `lstm` version 1", "| `cnn` version 1"]
    assert text.count("Reproduce: ") == 2


def test_a_model_without_a_recorded_load_test_is_named_with_the_command(tmp_path: Path) -> None:
    lines = [line for line in results.read(run.RESULTS).values() if line["run"] != "lstm, 1 in flight"]
    results.write(tmp_path / "results.jsonl", lines)
    shipped = read_all(ROOT / "models")
    with pytest.raises(click.ClickException, match=r"^no load test of lstm with 1 in flight .*'python -m studies ship"):
        readme_part.part(shipped, tmp_path / "results.jsonl")


@pytest.mark.parametrize(("graphs", "same"), [(("lstm", "lstm"), True), (("cnn", "lstm"), False)])
def test_speed_of_an_earlier_version_counts_only_where_its_graph_is_the_same(
    tmp_path: Path, graphs: tuple[str, str], same: bool
) -> None:
    """Version 1 of the shipped models has other weights than version 2."""
    (tmp_path / "lstm").mkdir()
    for version, name in zip((1, 2), graphs, strict=True):
        (tmp_path / "lstm" / str(version)).symlink_to(ROOT / "models" / name / str(version))
    shipped = read_all(tmp_path)
    recorded = tmp_path / "results.jsonl"
    of_version_1 = [
        line | {"version": "1"} if "version" in line else line for line in results.read(run.RESULTS).values()
    ]
    results.write(recorded, of_version_1)
    if same:
        (model,) = measured.read(shipped, recorded, repository=tmp_path)
        assert (model.version, model.model.version) == (1, 2)
    else:
        with pytest.raises(click.ClickException, match="version 1 of lstm was load-tested, and version 2, which ships"):
            measured.read(shipped, recorded, repository=tmp_path)


def test_the_readme_s_table_picture_and_source_name_the_same_versions() -> None:
    """The picture is drawn from the same models; test_pages_are_current compares its pixels."""
    shipped = read_all(ROOT / "models")
    text = (ROOT / "README.md").read_text()
    (figure,) = [picture.draw() for picture in PICTURES if picture.file == "accuracy-and-speed.png"]
    drawn = {label.get_text() for axes in figure.axes for label in axes.texts} - {"1", "8", "64"}
    assert "(docs/images/accuracy-and-speed.png)" in text
    assert drawn == {f"{model.name} version {model.version}" for model in shipped}
    assert all(f"| `{model.name}` version {model.version} |" in text for model in shipped)
    assert all(f"{float(model.metadata['test_accuracy']):.2%}" in text for model in shipped)


def test_a_load_test_becomes_a_line_for_each_run() -> None:
    latency = {"p50": 0.001, "p90": 0.002, "p95": 0.003, "p99": 0.004, "p999": 0.005, "histogram": [1]}
    closed = {"kind": "closed loop", "concurrency": 8, "rate": None}
    document = {
        "started": "2026-01-02T03:04:05", "valid": True,
        "environment": dict.fromkeys(run.ENVIRONMENT, "x") | {"system": "y"},
        "targets": [{"name": "lstm", "answering_version": "7"}],
        "runs": [
            {"model": "lstm", "load": load, "total": {"throughput": 99.5, "latency": latency}}
            for load in (closed, closed | {"concurrency": None, "rate": 430.0})
        ],
    }  # fmt: skip
    conditions, first, second = run.lines(document)
    assert conditions["date"] == "2026-01-02"
    assert (first["run"], second["run"]) == ("lstm, 8 in flight", "lstm, 430 calls/s")
    assert first["version"] == "7"
    assert first["latency_s"] == {"p50": 0.001, "p90": 0.002, "p95": 0.003, "p99": 0.004}


def test_the_recorded_load_test_is_valid() -> None:
    assert results.read(run.RESULTS)["conditions"]["valid"]
