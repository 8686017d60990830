"""``hangtag classify`` and ``hangtag health`` against a real server."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hangtag.cli import main
from hangtag.serving.client import pictures
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests import onnx_models

UNUSED_ADDRESS = "127.0.0.1:9"


def hangtag(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env={"COLUMNS": "120"})


def classify(server: Server, *arguments: object) -> Result:
    return hangtag("classify", "--server", server.address, "--model", "classifier", *arguments)


def test_labels_are_shown_with_their_probabilities(server: Server, garment: Path) -> None:
    result = classify(server, garment)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("ankle-boot-1.png")
    assert result.stdout.count("label ") == result.stdout.count("%") == 3
    assert "classifier version 1: " in result.stdout
    assert "▀" not in result.stdout


@pytest.mark.parametrize("top_k", [1, 5, 99])
def test_json_is_one_object_a_line(server: Server, garment: Path, top_k: int) -> None:
    result = classify(server, garment, garment, "--json", "--top-k", top_k)
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert (line["image"], line["model"], line["version"]) == (str(garment), "classifier", "1")
        assert len(line["labels"]) == min(top_k, 10)
        assert set(line["labels"][0]) == {"name", "probability", "index"}
        assert line["batch_size"] == 1


def test_an_image_that_fails_is_reported_and_the_others_are_classified(
    server: Server, garment: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    result = classify(server, tmp_path / "gone.png", text, garment, "--json")
    assert result.exit_code == 1
    assert [json.loads(line)["image"] for line in result.stdout.splitlines()] == [str(garment)]
    missing, broken = result.stderr.splitlines()
    assert missing == f"{tmp_path}/gone.png: No such file or directory"
    assert broken.startswith(f"{text}: the image is not a PNG, JPEG or WebP file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "nobody"), "no model 'nobody' is served here; served: classifier"),
        (("--model-version", "7"), "version '7' of 'classifier' is not served here"),
        (("--server", UNUSED_ADDRESS), f"no server answers at {UNUSED_ADDRESS}; start one with 'hangtag serve'"),
    ],
)
def test_a_call_that_fails_is_reported_on_standard_error(
    server: Server, garment: Path, arguments: tuple[str, ...], message: str
) -> None:
    model = () if "--model" in arguments else ("--model", "classifier")
    result = hangtag("classify", "--server", server.address, garment, *model, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"{garment}: {message}")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [(), ("x.png", "--top-k", "0"), ("x.png", "--timeout", "0")], ids=" ".join)
def test_usage_errors(server: Server, arguments: tuple[str, ...]) -> None:
    assert classify(server, *arguments).exit_code == 2


def test_a_picture_is_drawn_with_the_option(server: Server, garment: Path) -> None:
    plain, drawn = classify(server, garment), classify(server, garment, "--draw")
    assert drawn.exit_code == 0
    assert drawn.stdout.count("%") == 3
    assert "█████" in drawn.stdout.replace(plain.stdout, "")
    assert len(drawn.stdout.splitlines()) == 14 + 2  # two rows of pixels a line, then what it cost
    assert classify(server, garment, "--no-draw").stdout.count("\n") == plain.stdout.count("\n")


def test_names_with_brackets_are_no_markup(tmp_path: Path, garment: Path) -> None:
    labels = json.dumps(["[/bold]", "[red]", *"abcdefgh"])
    onnx_models.publish(tmp_path / "models", "classifier", onnx_models.classifier(labels=labels))
    odd = tmp_path / "[b]oot [red].png"
    shutil.copy(garment, odd)
    with Server(ServerConfig(models=tmp_path / "models", port=0)) as server:
        result = classify(server, odd, "--top-k", 10)
    assert (result.exit_code, result.exception) == (0, None)
    for name in ("[b]oot [red].png", "[/bold]", "[red]"):
        assert name in result.stdout


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (2000, 1), (1, 2000), (28, 28), (40, 27)])
@pytest.mark.parametrize("colour", [True, False])
def test_pictures_of_any_size_are_drawn(tmp_path: Path, size: tuple[int, int], colour: bool) -> None:
    file = tmp_path / "picture.png"
    Image.new("RGB", size, "red").save(file)
    drawn = pictures.draw(file.read_bytes(), colour=colour)
    assert drawn is not None
    assert any(segment.text.strip("\n") for segment in drawn.segments)


def test_two_rows_of_pixels_make_a_line(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28, 3), np.uint8)
    pixels[0] = (1, 2, 3)
    pixels[1] = (4, 5, 6)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    drawn = pictures.draw((tmp_path / "picture.png").read_bytes(), colour=True)
    assert drawn is not None
    style = drawn.segments[0].style
    assert style is not None
    assert style.color is not None
    assert style.bgcolor is not None
    assert (style.color.triplet, style.bgcolor.triplet) == ((1, 2, 3), (4, 5, 6))


def test_without_colours_brightness_is_a_shade(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[2:4] = 255
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    drawn = pictures.draw((tmp_path / "picture.png").read_bytes(), colour=False)
    assert drawn is not None
    assert "".join(segment.text for segment in drawn.segments).splitlines()[:3] == [" " * 28, "█" * 28, " " * 28]


def test_what_cannot_be_drawn_is_left_out() -> None:
    assert pictures.draw(b"no image", colour=True) is None


def test_health(server: Server) -> None:
    result = hangtag("health", "--server", server.address)
    assert (result.exit_code, result.stdout) == (0, f"the server at {server.address} is ready\n")
    result = hangtag("health", "--server", server.address, "--model", "gather", "--wait", 30)
    assert (result.exit_code, result.stdout) == (0, f"gather at {server.address} is ready\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "nobody"), "Error: nobody at {address} is not ready\n"),
        (("--model", "nobody", "--wait", "0.1"), "Error: nobody at {address} was not ready within 0.1 s; its log"),
        (("--server", UNUSED_ADDRESS), f"Error: no server answers at {UNUSED_ADDRESS}; start one"),
        (
            ("--server", UNUSED_ADDRESS, "--wait", "0.1"),
            f"Error: the server at {UNUSED_ADDRESS} was not ready within 0.1 s",
        ),
    ],
)
def test_ill_health_is_exit_code_1(server: Server, arguments: tuple[str, ...], message: str) -> None:
    result = hangtag("health", "--server", server.address, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(message.format(address=server.address))
