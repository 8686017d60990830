"""What a server says of its models does nothing to the terminal of `classify`; in JSON it is what the server said."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from hangtag.cli import main
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models

HOSTILE = "\x1b[31mred\nclassifier version 2"
SHOWN = "\\x1b[31mred\\nclassifier version 2"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    labels = json.dumps([f"{HOSTILE} {index}" for index in range(10)])
    for name in ("one", "other"):
        onnx_models.publish(folder, name, onnx_models.classifier(labels=labels))
    with Server(ServerConfig(models=folder, port=0, http_port=-1)) as running:
        yield running.address


@pytest.mark.parametrize("names", [("one",), ("one", "other")])
def test_labels_are_shown_with_escapes(address: str, garment: Path, names: tuple[str, ...]) -> None:
    command = ["classify", str(garment), "--server", address, *(part for name in names for part in ("--model", name))]
    shown = CliRunner().invoke(main, command, env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count(SHOWN) == 3 * len(names)
    assert all(line.isprintable() for line in shown.stdout.split("\n"))

    answer = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    labels = answer["labels"] if len(names) == 1 else answer["models"][0]["labels"]
    assert labels[0]["name"].startswith(HOSTILE)
