"""``hangtag classify`` over gRPC and over HTTP: labels, JSON, several models, images of many formats, and failures."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image

from tests.kit import onnx_models
from tests.kit.command import invoke
from tests.kit.other_servers import web_server
from tests.kit.server import server as running_server

HOSTILE = "\x1b[31mred\nclassifier version 2 [/bold]"
SHOWN = "\\x1b[31mred\\nclassifier version 2 [/bold]"


@pytest.fixture(scope="module", params=["gRPC", "HTTP"])
def address(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """A server with two equal classifiers, one with hostile labels, and a model that classifies nothing."""
    models = onnx_models.publish_all(tmp_path_factory.mktemp("models"), "gather", "classifier")
    onnx_models.publish(models, "other", onnx_models.classifier())
    labels = json.dumps([f"{HOSTILE} {index}" for index in range(10)])
    onnx_models.publish(models, "hostile", onnx_models.classifier(labels=labels))
    with running_server(models) as server:
        yield server.address if request.param == "gRPC" else f"http://{server.http_address}"


def classify(address: str, *arguments: object, models: tuple[str, ...] = ("classifier",), **more: Any) -> Result:
    """Run ``hangtag classify`` with these models. ``invoke`` gets ``more``."""
    chosen = [word for model in models for word in ("--model", model)]
    return invoke("classify", "--server", address, *chosen, *arguments, **{"columns": 120, **more})


def answers(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_labels_are_shown_with_their_probabilities(address: str, garment: Path) -> None:
    result = classify(address, garment)
    assert result.stderr == ""
    assert result.stdout.startswith("ankle-boot-1.png")
    assert result.stdout.count("label ") == result.stdout.count("%") == 3
    assert "classifier version 1" in result.stdout
    assert " ms computed" in result.stdout


def test_images_of_one_name_are_shown_with_their_folders(address: str, garment: Path, tmp_path: Path) -> None:
    files = [tmp_path / folder / "1.png" for folder in ("bags", "boots")]
    for file in files:
        file.parent.mkdir()
        shutil.copy(garment, file)
    shown = classify(address, *files, garment, columns=500).stdout
    assert [line.strip() for line in shown.splitlines() if ".png" in line] == [*map(str, files), garment.name]


@pytest.mark.parametrize("top_k", [1, 5, 99])
def test_json_is_one_object_a_line(address: str, garment: Path, top_k: int) -> None:
    result = classify(address, garment, garment, "--json", "--top-k", top_k)
    assert len(answers(result)) == 2
    for line in answers(result):
        assert (line["image"], line["model"], line["version"]) == (str(garment), "classifier", "1")
        assert len(line["labels"]) == min(top_k, 10)
        assert set(line["labels"][0]) == {"name", "probability", "index"}
        assert line["batch_size"] == 1


def test_an_image_that_fails_is_reported_and_the_others_are_classified(
    address: str, garment: Path, tmp_path: Path
) -> None:
    data = garment.read_bytes()
    bad = {
        "text.png": (b"no image", "PNG, JPEG or WebP"),
        "empty.jpg": (b"", "0 bytes"),
        "short.png": (data[:60], "damaged"),
        "header.png": (data[:12], "damaged"),
        "picture.bmp": (b"BM and no more", "PNG, JPEG or WebP"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    result = classify(
        address, tmp_path / "gone.png", *(tmp_path / name for name in bad), "-", garment, "--json", exit_code=1
    )
    assert [answer["image"] for answer in answers(result)] == [str(garment)]
    gone, *others, standard_input = result.stderr.splitlines()
    assert gone == f"{tmp_path}/gone.png: No such file or directory"
    for (name, (_, fact)), line in zip(bad.items(), others, strict=True):
        assert line.startswith(f"{tmp_path}/{name}: ")
        assert fact in line
        assert "object at 0x" not in line
    assert standard_input.startswith("-: standard input was empty")


def test_without_a_model_the_only_classifier_answers_and_several_are_named(garment: Path, tmp_path: Path) -> None:
    models = onnx_models.publish_all(tmp_path / "one", "gather", "classifier")
    with running_server(models) as server:
        (answer,) = answers(classify(server.address, garment, "--json", models=()))
    assert answer["model"] == "classifier"
    onnx_models.publish(models, "other", onnx_models.classifier())
    with running_server(models) as server:
        result = classify(server.address, garment, models=(), exit_code=1)
    assert "2 models that classify images: classifier, other; name one with --model" in result.stderr
    with running_server(onnx_models.publish_all(tmp_path / "none", "gather")) as server:
        result = classify(server.address, garment, models=(), exit_code=1)
    assert "gather; name one with --model" in result.stderr


def test_a_folder_stands_for_its_images_and_a_dash_for_standard_input(
    address: str, garment: Path, tmp_path: Path
) -> None:
    empty = classify(address, tmp_path, exit_code=1)
    assert (empty.stdout, empty.stderr.count("\n")) == ("", 1)
    assert f"{tmp_path} holds no image" in empty.stderr
    assert ".png" in empty.stderr
    (tmp_path / "class").mkdir()
    shutil.copy(garment, tmp_path / "class/b.PNG")
    with Image.open(garment) as image:
        image.save(tmp_path / "a.webp", lossless=True)
    (tmp_path / "notes.txt").write_text("no image")
    result = classify(address, tmp_path, "-", "--json", typed=garment.read_bytes())
    assert [Path(answer["image"]).name for answer in answers(result)] == ["a.webp", "b.PNG", "-"]
    assert result.stderr == "Left out 1 file whose name has none of the endings .png, .jpg, .jpeg, .webp.\n"


@pytest.mark.parametrize(
    ("arguments", "models", "facts"),
    [
        ((), ("nobody",), ["'nobody'", "classifier"]),
        (("--model-version", "7"), ("classifier",), ["'7'", "'classifier'"]),
        ((), ("classifier@7",), ["'7'", "'classifier'"]),
        ((), ("classifier", "classifier"), ["'classifier'", "twice"]),
    ],
)
def test_a_call_that_fails_is_one_line_on_standard_error(
    address: str, garment: Path, arguments: tuple[str, ...], models: tuple[str, ...], facts: list[str]
) -> None:
    result = classify(address, garment, *arguments, models=models, exit_code=1)
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert result.stderr.startswith(f"{garment}: ")
    assert all(fact in result.stderr for fact in facts)


@pytest.mark.parametrize(
    ("arguments", "models", "fact"),
    [
        ((), ("classifier",), "IMAGE"),
        (("x.png", "--top-k", "0"), ("classifier",), "--top-k"),
        (("x.png", "--timeout", "0"), ("classifier",), "--timeout"),
        (("x.png", "--model-version", "1"), ("classifier", "other"), "--model-version"),
        (("x.png", "--model-version", "1"), ("classifier@1",), "--model-version"),
    ],
)
def test_usage_errors(address: str, arguments: tuple[str, ...], models: tuple[str, ...], fact: str) -> None:
    result = classify(address, *arguments, models=models, exit_code=2)
    assert fact in result.stderr


def test_models_stand_side_by_side(address: str, garment: Path) -> None:
    result = classify(address, garment, "--top-k", 4, models=("classifier", "other"))
    assert result.stderr == ""
    title, header, *rows = [line.split("   ") for line in result.stdout.splitlines() if line.strip()]
    assert title[0].strip() == "ankle-boot-1.png: 2 models agree"
    assert [cell.strip() for cell in header if cell.strip()] == ["classifier version 1", "other version 1"]
    *labels, times = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert len(labels) == 4
    assert all(left == right and "%  label " in left for left, right in labels)
    assert len(times) == 2
    assert all(re.fullmatch(r"[\d.]+ ms queued, [\d.]+ ms computed", cell) for cell in times)
    narrow = classify(address, garment, models=("classifier", "other"), columns=24).stdout
    assert "…" not in narrow, "nothing is cut"


def test_json_has_every_models_answer_in_one_line(address: str, garment: Path) -> None:
    result = classify(
        address, garment, garment, "--json", models=("other@1", "gather", "classifier", "other@7"), exit_code=1
    )
    assert [answer["image"] for answer in answers(result)] == [str(garment)] * 2
    for answer in answers(result):
        other, gather, classifier, missing = answer["models"]
        assert (other["model"], other["version"], classifier["model"]) == ("other", "1", "classifier")
        assert other["labels"] == classifier["labels"]
        assert set(gather) == {"model", "error", "code"}
        assert (gather["model"], gather["code"]) == ("gather", "INVALID_ARGUMENT")
        assert (missing["model"], missing["code"]) == ("other@7", "NOT_FOUND")
        assert result.stderr.count(f"{garment}: gather: {gather['error']}\n") == 2
        assert result.stderr.count(f"{garment}: other@7: {missing['error']}\n") == 2


def test_a_model_that_fails_hides_no_other(address: str, garment: Path) -> None:
    result = classify(address, garment, models=("classifier", "nobody"), exit_code=1)
    assert "ankle-boot-1.png: only classifier answered" in result.stdout
    assert result.stdout.count("%") == 3
    assert result.stderr.startswith(f"{garment}: nobody: ")
    neither = classify(address, garment, models=("nobody", "gather"), exit_code=1)
    assert (neither.stdout, neither.stderr.count("\n")) == ("", 2)


@pytest.mark.parametrize(
    ("task", "labels", "verdict"),
    [
        ("SINGLE", ["a b", "a c"], "2 models agree"),
        ("SINGLE", ["a b", "b a"], "2 models differ"),
        ("MULTI", ["a b", "b a"], "2 models agree"),
        ("MULTI", ["a b", "a"], "2 models differ"),
        ("MULTI", ["", "", ""], "3 models agree"),
    ],
)
def test_models_agree_on_the_first_label_or_on_the_whole_set(
    garment: Path, task: str, labels: list[str], verdict: str
) -> None:
    answered = [
        {"model_name": str(number), "labels": [{"label": name} for name in names.split()], "task": f"TASK_{task}_LABEL"}
        for number, names in enumerate(labels)
    ]
    outcomes = [{"model_name": answer["model_name"], "answer": answer} for answer in answered]
    with web_server(lambda _: (200, {}, json.dumps({"outcomes": outcomes}).encode())) as fake:
        result = classify(f"http://{fake}", garment, models=tuple(str(answer["model_name"]) for answer in answered))
    assert f"ankle-boot-1.png: {verdict}" in result.stdout, result.stderr


@pytest.mark.parametrize("models", [("hostile",), ("hostile", "classifier")])
def test_labels_and_names_do_nothing_to_the_terminal(
    address: str, garment: Path, tmp_path: Path, models: tuple[str, ...]
) -> None:
    odd = tmp_path / "[b]oot [red].png"
    shutil.copy(garment, odd)
    shown = classify(address, odd, models=models, columns=160)
    assert "[b]oot [red].png" in shown.stdout
    assert shown.stdout.count(SHOWN) == 3
    assert all(line.isprintable() for line in shown.stdout.split("\n"))
    (answer,) = answers(classify(address, odd, "--json", models=models))
    labels = answer["labels"] if len(models) == 1 else answer["models"][0]["labels"]
    assert labels[0]["name"].startswith(HOSTILE)
