"""``hangtag classify`` and the client, where a model answers with a set of labels, or knows how far they are apart."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hangtag.cli import main
from hangtag.serving.client import Client
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_label_sets
from tests.kit.onnx_label_sets import image

PROBABILITIES = [10, 255, 20, 30, 204, 40, 50, 102, 60, 70]  # of 255


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("sets")
    onnx_label_sets.publish_all(models)
    with Server(ServerConfig(models=models, port=0, http_port=-1)) as running:
        yield running


def classify(server: Server, folder: Path, model: str, path: list[int], *options: object) -> Result:
    """Of a canvas whose answer is this path, 30 in 255 probable."""
    file = folder / "outfit.png"
    Image.fromarray(image(PROBABILITIES, path, path_probability=51)).save(file)
    arguments = ["classify", "--server", server.address, "--model", model, str(file), *map(str, options)]
    return CliRunner().invoke(main, arguments, env={"COLUMNS": "120"})


def shown(result: Result) -> list[list[str]]:
    """The lines that were printed, as words, the last one (what it cost) left out."""
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.replace("█", "").split() for line in result.stdout.splitlines() if line.strip()]
    assert lines.pop()[1:3] == ["version", "1:"]
    return lines


def test_a_set_is_shown_in_the_order_predicted(server: Server, tmp_path: Path) -> None:
    title, *rows = shown(classify(server, tmp_path, "path", [4, 1, 7]))
    assert " ".join(title) == "outfit.png: 3 labels, in the order predicted; 20.00% for the whole set"
    assert rows == [["label", "4", "80.00%"], ["label", "1", "100.00%"], ["label", "7", "40.00%"]]


def test_a_set_may_be_cut(server: Server, tmp_path: Path) -> None:
    title, *rows = shown(classify(server, tmp_path, "path", [4, 1, 7], "--top-k", 1))
    assert " ".join(title) == "outfit.png: 1 label; 20.00% for the whole set"
    assert rows == [["label", "4", "80.00%"]]


def test_an_empty_set_of_labels_is_shown(server: Server, tmp_path: Path) -> None:
    (title,) = shown(classify(server, tmp_path, "path", []))
    assert " ".join(title) == "outfit.png: no labels; 20.00% for the whole set"


def test_a_set_by_threshold_is_shown_most_probable_first(server: Server, tmp_path: Path) -> None:
    title, *rows = shown(classify(server, tmp_path, "half", []))
    assert " ".join(title) == "outfit.png: 2 labels, most probable first"
    assert rows == [["label", "1", "100.00%"], ["label", "4", "80.00%"]]


def test_runners_up_show_their_distance(server: Server, tmp_path: Path) -> None:
    title, *rows = shown(classify(server, tmp_path, "rivals", []))
    assert title == ["outfit.png"]
    assert rows == [
        ["label", "1", "100.00%"],
        ["label", "4", "80.00%", "distance", "0.30", "of", "1"],
        ["label", "7", "40.00%", "distance", "0.60", "of", "1"],
    ]


def test_json_names_the_task_of_the_answer(server: Server, tmp_path: Path) -> None:
    path = json.loads(classify(server, tmp_path, "path", [4, 1], "--json").stdout)
    assert path["task"] == "multi_label"
    assert path["path_probability"] == pytest.approx(0.2)
    assert path["labels"] == [
        {"name": "label 4", "probability": pytest.approx(0.8), "index": 4},
        {"name": "label 1", "probability": 1.0, "index": 1},
    ]
    rivals = json.loads(classify(server, tmp_path, "rivals", [], "--json", "--top-k", 2).stdout)
    assert rivals["task"] == "single_label"
    assert "path_probability" not in rivals
    assert [label["distance"] for label in rivals["labels"]] == pytest.approx([0, 0.3])


def test_the_client_returns_the_same_labels(server: Server) -> None:
    with Client(server.address) as client:
        answer = client.classify(image(PROBABILITIES, [4, 1, 7, 0], 255), "path")
        assert (answer.task, answer.path_probability) == ("multi_label", 1.0)
        assert [label.index for label in answer.labels] == [4, 1, 7, 0]
        assert {label.distance for label in answer.labels} == {None}
        assert client.classify(image(PROBABILITIES), "half").path_probability is None
        rivals = client.classify(image(PROBABILITIES), "rivals")
        assert rivals.task == "single_label"
        assert [label.distance for label in rivals.labels] == pytest.approx([0, 0.3, 0.6])
