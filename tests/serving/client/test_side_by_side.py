"""``hangtag classify`` with several models."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.serving.client import side_by_side
from hangtag.serving.client.classification import Classification, Label
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two classifiers that are the same, and a model that is none."""
    models = tmp_path_factory.mktemp("twins")
    for name in ("one", "other"):
        onnx_models.publish(models, name, onnx_models.classifier())
    onnx_models.publish(models, "gather", onnx_models.gather())
    with Server(ServerConfig(models=models, port=0, http_port=-1)) as running:
        yield running


def classify(server: Server, *arguments: object) -> Result:
    command = ["classify", "--server", server.address, *map(str, arguments)]
    return CliRunner().invoke(main, command, env={"COLUMNS": "120"})


def test_models_stand_side_by_side(twins: Server, garment: Path) -> None:
    result = classify(twins, garment, "--model", "one", "--model", "other", "--top-k", 4)
    assert (result.exit_code, result.stderr) == (0, "")
    title, header, *rows = [line.split("   ") for line in result.stdout.splitlines() if line.strip()]
    assert title[0].strip() == "ankle-boot-1.png: 2 models agree"
    assert [cell.strip() for cell in header if cell.strip()] == ["one version 1", "other version 1"]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert [left == right for left, right in cells[:4]] == [True] * 4
    assert all("%  label " in left for left, _ in cells[:4])
    assert len(cells) == 6
    assert all("ms queued" in cell for cell in cells[4])
    assert all("ms computed" in cell for cell in cells[5])


def test_json_has_every_models_answer_in_one_line(twins: Server, garment: Path) -> None:
    models = ("--model", "other", "--model", "gather", "--model", "one")
    result = classify(twins, garment, garment, *models, "--json")
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["image"] for line in lines] == [str(garment)] * 2
    for line in lines:
        other, gather, one = line["models"]
        assert [other["model"], gather["model"], one["model"]] == ["other", "gather", "one"]
        assert other["labels"] == one["labels"]
        assert set(gather) == {"model", "error", "code"}
        assert gather["code"] == "INVALID_ARGUMENT"
    assert result.stderr.count("ankle-boot-1.png: gather: 'gather' is not a classifier of images") == 2


def test_versions_stand_side_by_side(twins: Server, garment: Path) -> None:
    result = classify(twins, garment, "--model", "one@1", "--model", "other", "--model", "one@7", "--json")
    first, other, missing = json.loads(result.stdout)["models"]
    assert [(each["model"], each["version"]) for each in (first, other)] == [("one", "1"), ("other", "1")]
    assert missing["model"] == "one@7"
    assert result.stderr == f"{garment}: one@7: {missing['error']}\n"
    assert "version 1:" in classify(twins, garment, "--model", "one@1").stdout
    assert "version '7' of 'one' is not served here" in classify(twins, garment, "--model", "one@7").stderr


def test_a_model_that_fails_hides_no_other(twins: Server, garment: Path) -> None:
    result = classify(twins, garment, "--model", "one", "--model", "nobody")
    assert result.exit_code == 1
    assert "ankle-boot-1.png: only one answered" in result.stdout
    assert result.stdout.count("%") == 3
    assert result.stderr == f"{garment}: nobody: no model 'nobody' is served here; served: gather, one, other\n"


def test_where_no_model_answers_there_is_no_table(twins: Server, garment: Path) -> None:
    result = classify(twins, garment, "--model", "nobody", "--model", "gather")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize("columns", [120, 60])
def test_the_picture_is_left_of_the_table_or_above_it_on_a_narrow_console(
    twins: Server, garment: Path, columns: int
) -> None:
    command = ["classify", "--server", twins.address, str(garment), "--model", "one", "--model", "other", "--draw"]
    result = CliRunner().invoke(main, command, env={"COLUMNS": str(columns)})
    lines = result.stdout.splitlines()
    assert len(lines) == (14 if columns == 120 else 14 + 7) + 1
    assert any(set("░▒▓█") & set(line) and "%" in line for line in lines) is (columns == 120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "one", "--model", "other", "--model-version", "1"), "--model-version needs a single model"),
        (("--model", "one@1", "--model-version", "1"), "both name a version"),
    ],
)
def test_usage_errors(twins: Server, garment: Path, arguments: tuple[str, ...], message: str) -> None:
    result = classify(twins, garment, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_same_model_twice_is_refused(twins: Server, garment: Path) -> None:
    result = classify(twins, garment, "--model", "one", "--model", "one")
    assert result.exit_code == 1
    assert result.stderr == f"{garment}: model 'one' is given twice; name each one once\n"


def answer(*names: str, task: str = "single_label") -> Classification:
    return Classification("m", "1", tuple(Label(name, 0.5, 0) for name in names), 0, 0, 0, 1, task)


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ([answer("a", "b"), answer("a", "c")], "2 models agree"),
        ([answer("a", "b"), answer("b", "a")], "2 models differ"),
        ([answer("a", "b", task="multi_label"), answer("b", "a", task="multi_label")], "2 models agree"),
        ([answer("a", "b", task="multi_label"), answer("a", task="multi_label")], "2 models differ"),
        ([answer(task="multi_label"), answer(task="multi_label"), answer(task="multi_label")], "3 models agree"),
        ([answer("a")], "only m answered"),
    ],
)
def test_the_verdict(answers: list[Classification], verdict: str) -> None:
    assert side_by_side.verdict(answers) == verdict
