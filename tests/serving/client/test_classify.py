"""``hangtag classify`` and ``hangtag health`` against a real server."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from PIL import Image

from hangtag.cli import main
from hangtag.serving.client import pictures
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models

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
    assert broken == f"{text}: this is not a PNG, JPEG, WebP, BMP, GIF or TIFF image; convert it to one of them"


def test_an_empty_file_a_damaged_one_and_empty_standard_input_are_told_apart(
    server: Server, garment: Path, tmp_path: Path
) -> None:
    files = {
        "empty.jpg": b"",
        "short.png": garment.read_bytes()[:60],
        "header.png": garment.read_bytes()[:12],
        "short.bmp": b"BM and no more",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    result = classify(server, *(tmp_path / name for name in files), "-")
    assert (result.exit_code, result.stdout) == (1, "")
    empty, *damaged, standard_input = result.stderr.splitlines()
    assert empty == f"{tmp_path}/empty.jpg: the file is empty (0 bytes)"
    for name, line in zip(("short.png", "header.png", "short.bmp"), damaged, strict=True):
        assert line.startswith(f"{tmp_path}/{name}: the image cannot be decoded and seems damaged: ")
        assert "object at 0x" not in line  # Pillow's name of a stream
    assert standard_input == "-: nothing came on standard input"


@pytest.mark.parametrize("format_", ["BMP", "GIF", "TIFF", "PNG"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_formats_that_the_server_does_not_read_are_converted(
    server: Server, garment: Path, tmp_path: Path, format_: str, mode: str
) -> None:
    with Image.open(garment) as image:
        image.convert(mode).save(tmp_path / "boot.png")
        image.convert(mode).save(tmp_path / "boot", format_)
    result = classify(server, tmp_path / "boot", tmp_path / "boot.png", "--json")
    assert result.exit_code == 0, result.stderr
    converted, png = (json.loads(line)["labels"] for line in result.stdout.splitlines())
    assert [label["name"] for label in converted] == [label["name"] for label in png]


def test_a_folder_stands_for_its_images(server: Server, garment: Path, tmp_path: Path) -> None:
    shutil.copy(garment, tmp_path / "b.PNG")
    with Image.open(garment) as image:
        image.save(tmp_path / "a.gif")
    (tmp_path / "notes.txt").write_text("no image")
    result = classify(server, tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    assert [Path(json.loads(line)["image"]).name for line in result.stdout.splitlines()] == ["a.gif", "b.PNG"]


def test_a_folder_without_images_says_what_was_expected(server: Server, tmp_path: Path) -> None:
    result = classify(server, tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {tmp_path} holds no image; expected files that end in .png, .jpg")


def test_a_dash_stands_for_standard_input(server: Server, garment: Path) -> None:
    arguments = ["classify", "--server", server.address, "--model", "classifier", "--json", "-"]
    result = CliRunner().invoke(main, arguments, input=garment.read_bytes())
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["image"] == "-"


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
    with Server(ServerConfig(models=tmp_path / "models", port=0, http_port=-1)) as server:
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
        (("--model", "nobody"), "Error: the server at {address} serves no model 'nobody'\n"),
        (("--model", "nobody", "--wait", "0.1"), "Error: the server at {address} served no model 'nobody' within 0.1"),
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


@pytest.mark.parametrize("arguments", [(), ("--model", "cnn")], ids=["the server", "a model"])
def test_a_server_that_still_loads_is_not_ready(arguments: tuple[str, ...]) -> None:
    """It does not know its models yet, so an unknown one is no mistake of the caller's."""
    loading = grpc.server(ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, loading)
    address = f"127.0.0.1:{loading.add_insecure_port('127.0.0.1:0')}"
    loading.start()
    try:
        result = hangtag("health", "--server", address, *arguments)
    finally:
        loading.stop(None)
    name = arguments[1] if arguments else "the server"
    assert (result.exit_code, result.stderr) == (1, f"Error: {name} at {address} is not ready; its log says why\n")
