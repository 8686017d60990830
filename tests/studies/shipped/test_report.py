"""The page about the shipped models, and the README's table of them."""

from pathlib import Path

import click
import pytest

from studies import results
from studies.shipped import measured, pictures, readme_part, route, run
from studies.shipped.models import read_all, read_earlier, read_precisions
from studies.shipped.report import PICTURES, page
from tests.kit.shipped import latest

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
        line | {"version": "1"} if "version" in line else line
        for line in results.read(run.RESULTS).values()
        if line.get("model") != route.NAME
    ]
    results.write(recorded, of_version_1)
    if same:
        (model,) = measured.read(shipped, recorded, repository=tmp_path)
        assert (model.earlier_version, model.title) == (1, "lstm version 2")
    else:
        with pytest.raises(click.ClickException, match="version 1 of lstm was load-tested, and version 2, which ships"):
            measured.read(shipped, recorded, repository=tmp_path)


def test_the_readme_s_table_picture_and_source_name_the_same_versions() -> None:
    """The picture is drawn from the same models; test_pages_are_current compares its pixels."""
    shipped = measured.read(read_all(ROOT / "models") + read_precisions(ROOT / "models"))
    text = (ROOT / "README.md").read_text()
    (figure,) = [picture.draw() for picture in PICTURES if picture.file == "accuracy-and-speed.png"]
    drawn = {label.get_text() for axes in figure.axes for label in axes.texts} - {"1", "8", "64"}
    assert "(docs/images/accuracy-and-speed.png)" in text
    assert drawn == {each.title for each in shipped}
    rows = {line.rsplit(" | ", 2)[0] for line in text.replace("`", "").splitlines()}
    assert {f"| {each.title} | {each.parameters:,} | {each.accuracy:.2%}" for each in shipped} <= rows


ACCURATE = {"accuracy": 0.9462, "images": 10_000, "version": "1"}


def with_the_route(path: Path, **accuracy: object) -> Path:
    """The recorded results without the route's own, and cnn's speed as the route's."""
    recorded = [line for line in results.read(run.RESULTS).values() if line.get("model") != route.NAME]
    of_cnn = [line for line in recorded if line.get("model") == "cnn" and run.ACCURACY not in line["run"]]
    of_route = [line | {"run": line["run"].replace("cnn", route.NAME), "model": route.NAME} for line in of_cnn]
    if accuracy:
        of_route.append({"run": f"{route.NAME}, {run.ACCURACY}", "model": route.NAME} | accuracy)
    results.write(path, [*recorded, *(of_route if accuracy else ())])
    return path


def test_the_route_has_a_row_and_a_mark_with_the_accuracy_that_was_measured(tmp_path: Path) -> None:
    path = with_the_route(tmp_path / "results.jsonl", **ACCURATE, route=route.definition(ROOT / "models"))
    shipped = read_all(ROOT / "models")
    found = measured.read(shipped, path)
    assert [each.name for each in found] == ["lstm", "cnn", "fast-and-accurate", "lstm2"]
    assert found[2].parameters == found[0].parameters + found[1].parameters
    text = readme_part.part(shipped, path)
    assert "\n| `fast-and-accurate` | 1,576,408 | 94.62% | " in text
    assert "`fast-and-accurate`, a [route](docs/routes.md), answered all test images through the server, and " in text
    labels = {label.get_text() for axes in pictures.accuracy_and_speed(found).axes for label in axes.texts}
    assert "fast-and-accurate" in labels


def test_a_route_that_was_not_measured_has_no_row(tmp_path: Path) -> None:
    text = readme_part.part(read_all(ROOT / "models"), with_the_route(tmp_path / "results.jsonl"))
    assert route.NAME not in text
    assert "[docs/models.md](docs/models.md). Speed" in text


def test_figures_of_another_route_of_this_name_or_of_some_images_are_refused(tmp_path: Path) -> None:
    path, now = tmp_path / "results.jsonl", route.definition(ROOT / "models")
    looser = now | {"settings": now["settings"] | {"accept": {"output": "probabilities", "at_least": 0.5}}}
    older = now | {"versions": now["versions"] | {"cnn": 1}}
    for accuracy, message in (
        (ACCURATE | {"route": looser}, "'at_least': 0.5"),
        (ACCURATE | {"route": older}, "'cnn': 1"),
        (ACCURATE | {"route": now, "images": 500}, "on the whole test set is not recorded"),
    ):
        with_the_route(path, **accuracy)
        with pytest.raises(click.ClickException, match=f"{message}.*'python -m studies shipped run' measures it"):
            measured.read(read_all(ROOT / "models"), path)


def test_a_route_s_definition_has_its_members_versions(tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "both/route.toml").write_text(
        'cascade = ["lstm", "cnn@1"]\ndescription = "By hand."\nexpected_sent_on = 0.1'
    )
    (tmp_path / "lstm").symlink_to(ROOT / "models/lstm")
    assert route.definition(tmp_path, "both") == {
        "settings": {"cascade": ["lstm", "cnn@1"]},
        "versions": {"lstm": 2, "cnn@1": 1},
    }


def test_a_load_test_becomes_a_line_for_each_run() -> None:
    latency = {"p50": 0.001, "p90": 0.002, "p95": 0.003, "p99": 0.004, "p999": 0.005, "histogram": [1]}
    closed = {"kind": "closed loop", "concurrency": 8, "rate": None}
    document = {
        "started": "2026-01-02T03:04:05", "valid": True,
        "environment": dict.fromkeys(run.ENVIRONMENT, "x") | {"system": "y"},
        "targets": [
            {"name": name, "answering_version": "7", "accuracy": {"accuracy": 0.5, "total": 8, "correct": 4}}
            for name in ("lstm", route.NAME)
        ],
        "runs": [
            {"model": "lstm", "load": load, "total": {"throughput": 99.5, "latency": latency}}
            for load in (closed, closed | {"concurrency": None, "rate": 430.0})
        ],
    }  # fmt: skip
    conditions, model, both, first, second = run.lines(document, {"settings": {}})
    assert conditions["date"] == "2026-01-02"
    assert model == {"run": "lstm, accuracy", "model": "lstm", "version": "7", "accuracy": 0.5, "images": 8}
    assert (both["run"], both["route"]) == ("fast-and-accurate, accuracy", {"settings": {}})
    assert (first["run"], second["run"]) == ("lstm, 8 in flight", "lstm, 430 calls/s")
    assert first["version"] == "7"
    assert first["latency_s"] == {"p50": 0.001, "p90": 0.002, "p95": 0.003, "p99": 0.004}


def test_the_recorded_load_test_is_valid() -> None:
    assert results.read(run.RESULTS)["conditions"]["valid"]
