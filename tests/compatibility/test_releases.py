"""hangtag can use the files of earlier releases, resume their runs, accept their options, and answer their clients."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
import pytest

from hangtag.cli import main
from hangtag.serving.server.process.server import Server
from tests.compatibility.earlier import RELEASES, Client, Release
from tests.kit.command import invoke, refusal
from tests.kit.server import server

pytestmark = pytest.mark.slow

every_release = pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.version)


@every_release
def test_reports_of_the_load_test_are_compared(release: Release, tmp_path: Path) -> None:
    names = [release.folder / f"loadtest-{when}.json" for when in ("before", "after")]
    written = tmp_path / "compared.json", tmp_path / "compared.html"
    variables = {"HANGTAG_LOADTEST_COMPARE_JSON": str(written[0])}
    invoke("loadtest", "compare", *names, "--html", written[1], variables=variables)
    for file in written:
        assert "lstm-56-int8" in file.read_text()


@every_release
def test_models_keep_their_proof_and_their_provenance(release: Release) -> None:
    at = ("--models", release.folder / "models")
    listed = json.loads(invoke("models", "list", *at, "--json").stdout)
    names = [(one["model"], one["version"], one["serves"]) for one in listed]
    assert names == [(name, 1, True) for name in ("lstm-56", "lstm-56-int8", "sums")]
    shown = invoke("models", "show", "lstm-56", *at).stdout
    assert "TRIAL RUN" in shown
    assert release.accuracy in shown
    invoke("models", "verify", *at)
    with server(release.folder / "models", require_proof=True, http_port=-1) as running:
        assert running.ready


@every_release
def test_runs_are_listed_and_shown(release: Release) -> None:
    at = ("--runs", release.folder / "runs", "--models", release.folder / "models")
    finished, stopped = invoke("runs", "list", *at).stdout.splitlines()[1:]
    assert release.accuracy in finished
    assert "lstm-56 1, lstm-56-int8 1" in finished
    assert "1 of 3" in stopped
    assert "recipe.optimizer" in invoke("runs", "show", release.folder / "runs/finished", *at).stdout


@every_release
def test_a_stopped_run_goes_on_from_its_checkpoint(release: Release, tmp_path: Path) -> None:
    out = Path(shutil.copytree(release.folder / "runs/stopped", tmp_path / "stopped"))
    before = json.loads((out / "metrics.json").read_text())["epochs"]
    settings = "--recipe study --epochs 3 --seed 0 --limit 300 --threads 1 --device cpu"
    invoke("train", "lstm-56", *settings.split(), "--out", out)
    epochs = json.loads((out / "metrics.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    assert epochs[:1] == before
    assert epochs[2]["train_loss"] < epochs[0]["train_loss"]


@every_release
def test_a_finished_run_is_exported_and_makes_the_same_model(release: Release, tmp_path: Path) -> None:
    invoke("export", release.folder / "runs/finished", "--timing", "none", "--models", tmp_path / "models")
    pixels = np.random.default_rng(0).integers(256, size=(64, 28, 28), dtype=np.uint8)
    now, before = (
        onnxruntime.InferenceSession(models / "lstm-56/1/model.onnx").run(["logits"], {"image": pixels})[0]
        for models in (tmp_path / "models", release.folder / "models")
    )
    np.testing.assert_allclose(now, before, atol=1e-5)


@every_release
def test_every_option_and_variable_is_still_there(release: Release) -> None:
    for path, earlier in release.read("options.json").items():
        if path in release.gone:
            continue
        command: click.Command | None = main
        for name in path.split():
            subcommands = getattr(command, "commands", {})  # `hangtag loadtest` had a subcommand in some releases
            command = subcommands[name] if subcommands else main.get_command(click.Context(main), name)
        assert command is not None
        options = [option for option in command.params if isinstance(option, click.Option)]
        flags = {flag for option in options for flag in (*option.opts, *option.secondary_opts)}
        variables = {name for option in options for name in option.envvar or []}
        assert {*earlier["options"], *earlier["variables"]} - flags - variables <= release.gone, path


def test_an_option_that_is_gone_is_an_error() -> None:
    for option in ("--hot-path", "--min-ping-seconds"):
        assert option in refusal("serve", option, "9", exit_code=2)


PICTURES = sorted((Path(__file__).parents[2] / "examples/garments").glob("*-1.png"))
SERVED = [(release, transport) for release in RELEASES for transport in ("native", "grpc")]


@pytest.fixture(scope="module", params=SERVED, ids=lambda served: f"{served[0].version}-{served[1]}")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Server]]:
    """A client of an earlier release, and a server of this version with the earlier release's models."""
    release, transport = request.param
    client = release.install(tmp_path_factory.mktemp("client"))
    with server(release.folder / "models", transport=transport) as running:
        yield client, running


def test_every_call_is_answered_as_before(served: tuple[Client, Server]) -> None:
    client, running = served
    addresses = [running.address, *([f"http://{running.http_address}"] if client.release.has_http else [])]
    for address in addresses:
        now, before = client.call(address, PICTURES), client.release.read("answers.json")
        now["parameters"] = [name for name in now["parameters"] if name in before["parameters"]]  # ignore new ones
        require_close(now, before, address)


def require_close(now: Any, before: Any, where: str) -> None:
    """Require that two JSON values are equal, except for rounding, which depends on the processor."""
    if isinstance(before, list):
        assert len(now) == len(before), where
        for index, pair in enumerate(zip(now, before, strict=True)):
            require_close(*pair, f"{where} {index}")
    elif isinstance(before, dict):
        assert now.keys() == before.keys(), where
        for key in before:
            require_close(now[key], before[key], f"{where} {key}")
    else:
        assert now == (pytest.approx(before, abs=1e-5) if isinstance(before, float) else before), where


def test_the_commands_work(served: tuple[Client, Server], tmp_path: Path) -> None:
    client, running = served
    at, report = ("--server", running.address), tmp_path / "report.json"
    client.hangtag("health", *at)
    classified = client.hangtag("classify", *at, "--model", "lstm-56", "--json", str(PICTURES[0]))
    assert json.loads(classified)["labels"][0]["name"] == client.release.read("answers.json")["classified"][0][3][0][0]
    assert "lstm-56-int8" in client.hangtag("top", *at, "--once", "--interval", "0.1")
    client.hangtag(
        *("loadtest", "lstm-56", *at, "--concurrency", "2", "--json", str(report)),
        *("--min-duration", "0.1", "--min-query-count", "50", "--warm-up", "0.05", "--blocks", "2"),
        exit_codes=(0, 1),  # exit code 1: the machine was too busy for a valid run
    )
    (run,) = json.loads(report.read_text())["runs"]
    assert (run["target"], run["error_messages"]) == ("lstm-56", {})
    assert run["total"]["queries"] >= 50
