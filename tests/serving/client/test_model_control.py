"""``hangtag models load`` and ``unload`` against a real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.serving.client import Client
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.command import serving


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("gather", "text"):
        onnx_models.publish(folder, name, getattr(onnx_models, name)())
    return folder


@pytest.fixture(scope="module")
def explicit(repository: Path) -> Iterator[str]:
    """The address of a server that serves text, and of whose repository gather can be loaded."""
    control = ("--model-control", "explicit", "--load-model", "text")
    with serving("--models", str(repository), "--port", "0", *control) as running:
        yield running.wait_until_ready()


def hangtag(address: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments, "--server", address])


def served(address: str) -> list[str]:
    with Client(address) as client:
        return client.models()


def test_a_model_is_loaded_loaded_anew_and_unloaded(explicit: str, repository: Path) -> None:
    loaded = hangtag(explicit, "load", "gather")
    assert (loaded.exit_code, loaded.stdout) == (0, f"{explicit} serves gather version 1\n"), loaded.output
    assert served(explicit) == ["gather", "text"]
    onnx_models.publish(repository, "gather", onnx_models.gather(), version=2)
    assert hangtag(explicit, "load", "gather").stdout.endswith("serves gather version 2\n")
    unloaded = hangtag(explicit, "unload", "text")
    assert (unloaded.exit_code, unloaded.stdout) == (0, f"{explicit} no longer serves text\n"), unloaded.output
    assert served(explicit) == ["gather"]
    # The other tests find what this one found.
    assert hangtag(explicit, "load", "text").exit_code == hangtag(explicit, "unload", "gather").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("load", "nope"), "the repository has no model 'nope' with a version to load; it has: gather, text"),
        (("unload", "gather"), "no model 'gather' is served, so there is nothing to unload; served: text"),
        (("load", "broken"), "model.onnx cannot be loaded by ONNX Runtime "),
        (("load", "gather", "--timeout", "1e-9"), "no answer from "),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    explicit: str, repository: Path, arguments: tuple[str, ...], message: str
) -> None:
    broken = repository / "broken/1/model.onnx"
    broken.parent.mkdir(parents=True, exist_ok=True)
    if "broken" in arguments:
        broken.write_bytes(b"not a model")
    result = hangtag(explicit, *arguments)
    broken.unlink(missing_ok=True)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "text" in served(explicit)


@pytest.mark.parametrize("command", ["load", "unload"])
def test_a_server_without_explicit_control_names_the_option(server: Server, command: str) -> None:
    result = hangtag(server.address, command, "gather")
    assert result.exit_code == 1
    assert result.stderr.endswith("start the server with --model-control explicit\n")


@pytest.mark.parametrize("command", ["load", "unload"])
def test_credentials_are_checked_before_the_call(server: Server, tmp_path: Path, command: str) -> None:
    result = hangtag(server.address, command, "gather", "--token-file", str(tmp_path / "missing"))
    assert result.exit_code == 2
    assert "missing (--token-file) cannot be read" in " ".join(result.stderr.split())
