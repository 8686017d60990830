"""Commands that call a server over HTTP do what they do over gRPC."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.serving.server.process.server import Server


def hangtag(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def url(server: Server) -> str:
    return f"http://{server.http_address}"


def classified(address: str, image: Path, *models: str) -> Any:
    chosen = [word for model in models for word in ("--model", model)]
    result = hangtag("classify", image, "--server", address, "--json", *chosen)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_an_image_gets_the_same_labels(server: Server, url: str, garment: Path) -> None:
    over_http = classified(url, garment, "classifier")
    over_grpc = classified(server.address, garment, "classifier")
    assert over_http["labels"] == over_grpc["labels"]
    assert over_http.keys() == over_grpc.keys()


def test_models_are_compared_side_by_side(server: Server, url: str, garment: Path) -> None:
    results = [
        hangtag("classify", garment, "--server", address, "--json", "--model", "classifier", "--model", "gather")
        for address in (url, server.address)
    ]
    assert [result.exit_code for result in results] == [1, 1]  # gather classifies nothing
    assert results[0].stderr == results[1].stderr
    over_http, over_grpc = (json.loads(result.stdout)["models"] for result in results)
    assert over_http[0]["labels"] == over_grpc[0]["labels"]
    assert over_http[1] == over_grpc[1]


def test_an_image_that_fails_is_reported_and_the_others_go_on(url: str, garment: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    result = hangtag("classify", tmp_path / "broken.png", garment, "--server", url, "--model", "classifier", "--json")
    assert result.exit_code == 1
    assert "broken.png: " in result.stderr
    assert len(result.stdout.splitlines()) == 1


def test_health_and_top(url: str) -> None:
    assert hangtag("health", "--server", url).stdout == f"the server at {url} is ready\n"
    assert hangtag("health", "--server", url, "--wait", 30, "--model", "gather").exit_code == 0
    missing = hangtag("health", "--server", url, "--model", "nobody")
    assert (missing.exit_code, f"the server at {url} serves no model 'nobody'" in missing.stderr) == (1, True)
    assert "classifier" in hangtag("top", "--once", "--server", url).stdout


def test_model_control_that_is_forbidden_is_explained(url: str) -> None:
    result = hangtag("models", "unload", "gather", "--server", url)
    assert result.exit_code == 1
    assert "--model-control explicit" in result.stderr


def test_an_address_where_nothing_listens(garment: Path) -> None:
    result = hangtag("classify", garment, "--server", "http://127.0.0.1:9")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "no server answers at http://127.0.0.1:9; start one with 'hangtag serve'" in result.stderr
