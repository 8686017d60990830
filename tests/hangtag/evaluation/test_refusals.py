"""What `hangtag evaluate` cannot evaluate, and options that mean nothing: a clear word each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hangtag.evaluation import subjects
from hangtag.serving.server.process.server import Server
from tests.hangtag.conftest import LSTM, document, hangtag
from tests.kit import runs
from tests.kit.exported import Exported
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow

UNUSED_ADDRESS = "127.0.0.1:9"


def refused(*arguments: object) -> str:
    """The one line that the command ends with, exit code 1."""
    result = hangtag("evaluate", *arguments)
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_runs_that_cannot_be_evaluated(tmp_path: Path, exported: Exported) -> None:
    missing = refused("gone", "--runs", tmp_path)
    assert "no finished run 'gone'" in missing
    assert "An exported model is named by its file or its folder, such as models/cnn." in missing
    started = runs.start(tmp_path / "started", "lstm")
    assert "is not finished (0 epochs so far)" in refused(started.folder)
    for name in ("config.json", "metrics.json"):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / name).write_bytes((exported.run.folder / name).read_bytes())
    assert "best.pt cannot be read as a checkpoint" in refused(tmp_path / "broken")
    (tmp_path / "broken" / "best.pt").write_bytes(b"PK\3\4 no weights")
    assert "best.pt cannot be read as a checkpoint" in refused(tmp_path / "broken")
    weights = exported.run.load("best.pt")
    weights["model"]["classifier.weight"] = weights["model"]["classifier.weight"][:5]
    type(exported.run)(tmp_path / "broken").save("best.pt", weights)
    assert "do not fit lstm" in refused(tmp_path / "broken")
    assert "do not fit lstm" in refused(tmp_path / "broken/best.pt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two_inputs", "to be evaluated it must take image: UINT8 [any, 28, 28]"),
        ("other_labels", "has the labels label 0, label 1"),
        ("seven_classes", "logits of the shape [50, 7] for 50 images; the data set's 10 classes need [50, 10]"),
        ("no_logits", "has no output `logits` (only scores)"),
        ("broken_numbers", "not finite for 50 of 50 images, first for image 0"),
    ],
)
def test_files_of_something_else(repository: Path, name: str, message: str) -> None:
    assert message in refused(repository / name / "1/model.onnx", "--limit", 50)


def test_a_route_without_a_server(tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "both/route.toml").write_text("split = {cnn = 100}")
    message = refused(tmp_path / "both")
    assert f"{tmp_path / 'both'} is a route, which answers on a server alone; evaluate it there: " in message
    assert "hangtag evaluate both --server HOST:PORT." in message


def test_files_that_are_none(tmp_path: Path) -> None:
    assert f"there is no file {tmp_path}/gone.onnx" in refused(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    message = refused(tmp_path / "text.onnx")
    assert "cannot be loaded by ONNX Runtime" in message
    assert not message.endswith("..\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "has no model 'gone'; the models there: broken_numbers, lstm, no_logits, other_labels"),
        ("two_inputs", "two_inputs at "),
        ("other_labels", "has the labels label 0, label 1"),
        ("seven_classes", "logits of the shape [50, 7]"),
        ("no_logits", "has no output `logits` (only scores)"),
        ("broken_numbers", "not finite for 50 of 50 images"),
    ],
)
def test_served_models_of_something_else(server: Server, name: str, message: str) -> None:
    assert message in refused(name, "--server", server.address, "--limit", 50)


def test_a_version_that_is_not_served(server: Server) -> None:
    message = refused("lstm", "--server", server.address, "--model-version", 7)
    assert "has no model 'lstm' version 7" in message


def test_a_server_that_does_not_answer_is_reported() -> None:
    assert f"no server answers at {UNUSED_ADDRESS}" in refused("lstm", "--server", UNUSED_ADDRESS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lstm", "--model-version", 7], "--model-version: only served models have it; name a server with --server."),
        (["lstm", "--timeout", 3], "--timeout: only served models have it; name a server with --server."),
        (["lstm", "--server", UNUSED_ADDRESS, "--timeout", "nan"], "'nan' is not a finite number"),
        (["lstm", "--server", UNUSED_ADDRESS, "--runs", "."], "--runs: lstm is not a run."),
        ([LSTM, "--runs", "."], "is not a run."),
        (["lstm", "--server", "foo"], "'foo' is no address: write HOST:PORT, for example 127.0.0.1:8001."),
        (["lstm", "--server", "grpc://foo"], "'grpc://foo' is a URL, but a gRPC server is named without"),
        ([LSTM, "--server", UNUSED_ADDRESS], "with --server, give the NAME of a model there."),
        ([LSTM, "--data", "hats"], "'hats' is not one of 'fashion-mnist', 'outfits', 'outfits-independent', 'voc2007'"),
    ],
)
def test_options_that_would_go_unused_or_mean_nothing(arguments: list[object], message: str) -> None:
    result = hangtag("evaluate", *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


def test_a_variable_that_goes_unused_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGTAG_EVALUATE_TIMEOUT", "5")
    assert document(LSTM, "--limit", 3)["data"]["images"] == 3


def test_distances_that_are_none(tmp_path: Path) -> None:
    assert "gone.json cannot be read" in refused(LSTM, "--distances", tmp_path / "gone.json")


@pytest.mark.parametrize("option", ["--json", "--pictures"])
def test_an_unwritable_file_is_reported_before_the_work(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "open_subject", lambda *_, **__: pytest.fail("it began"))
    (tmp_path / "file").write_text("")
    assert "cannot write " in refused(LSTM, option, tmp_path / "file" / "figures")
    if option == "--json":
        assert f"cannot write {tmp_path}: Is a directory" in refused(LSTM, option, tmp_path)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)  # root may write everywhere
    assert "Permission denied" in refused(LSTM, option, tmp_path / "new" / "figures")


def test_a_full_disk_is_reported_in_one_line() -> None:
    result = hangtag("evaluate", LSTM, "--limit", 5, "--json", "/dev/full")
    assert result.exit_code == 1
    assert result.stderr == "Error: cannot write /dev/full: No space left on device\n"


def without(modules: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where these modules cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({modules}))\n"
        f"from hangtag.cli import main; main({[str(argument) for argument in arguments]})"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=MODELS.parent, check=False)


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("torch", ["evaluate", "a-run"], "train"),
        ("matplotlib", ["evaluate", LSTM, "--pictures", "pictures"], "export"),
        ("onnxruntime", ["evaluate", LSTM], "cpu"),
        ("onnx", ["labels", LSTM], "export"),
        ("torch", ["labels", "a-run"], "train"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    missing: str, arguments: list[object], extra: str
) -> None:
    ended = without([missing], *arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1
    assert f"needs the Python module '{missing}" in ended.stderr
    assert f"pip install '.[{extra}]'" in ended.stderr


def test_a_served_model_needs_neither_torch_nor_onnx_runtime(server: Server) -> None:
    packages = ["torch", "onnx", "onnxruntime", "matplotlib"]
    ended = without(packages, "evaluate", "lstm", "--server", server.address, "--limit", 100)
    assert ended.returncode == 0, ended.stderr
    assert "lstm on 100 test images" in ended.stdout
