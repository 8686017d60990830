"""``hangtag export``: its output and its exit codes."""

import os
import re
import signal
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.export import report
from hangtag.export.file import torch_export
from hangtag.training.data import fashion_mnist
from hangtag.training.data.fashion_mnist import Split
from tests.export import runs
from tests.export.exported import Exported
from tests.export.files import exported_as
from tests.kit import forkserver
from tests.kit.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs_dir(lstm: Exported, garments: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs of lstm, `newer` the later; one of lstm2 that was only begun; and a folder that is no run."""
    folder = tmp_path_factory.mktemp("cli") / "runs"
    for seconds, name in enumerate(["older", "newer"]):
        runs.train(folder / name, "lstm", garments)
        os.utime(folder / name / "metrics.json", (1_000 + seconds, 1_000 + seconds))
    runs.start(folder / "begun", "lstm2")
    (folder / "stray").mkdir()
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's defaults, runs/ and models/, are relative: keep them out of the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick(lstm: Exported, garments: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that the exporter made of the same weights before, and few test images."""
    monkeypatch.setattr(torch_export, "to_onnx", exported_as(lstm.file))
    monkeypatch.setattr(fashion_mnist, "load_test", lambda data_dir: garments)


def export(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_it_publishes_and_lists_the_passed_checks(runs_dir: Path) -> None:
    """The whole command, on the whole test set."""
    result = export("older", "--runs", runs_dir, "--timing", "eager")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(f"exporting {runs_dir / 'older'} in fp32\n")
    output = re.fullmatch(
        r"published models/lstm/1\n"
        r"  TRIAL RUN    trained on the first 32 images only\n"
        r"  structure    valid ONNX, 7 nodes \(PyTorch exported \d\d in FP32\), 0\.\d\d MB\n"
        r"  contract     names, datatypes and free batch axis as they should be\n"
        r"  parity       logits within \d\.\de-0\d of PyTorch at batch 1, 2, 3, 7, 16, 64\n"
        r"  agreement    test accuracy (\d+\.\d\d)%, every answer the same\n"
        r"  calibration  expected calibration error \d+\.\d\d%\n"
        r"  batching     the same answer alone and in any batch.*\n"
        r"  empty batch  the runtime ends the process on an empty batch, which the server refuses first\n"
        r"  cuda         .*\n"
        r"  speed        batch 1 in \S+ ms \(\S+x PyTorch\), batch 64 in \S+ ms \(\S+x PyTorch\), \d+ threads?.*\n",
        result.stdout,
    )
    assert output, result.stdout
    page = Path("reports/export/lstm-1.html")
    assert f"report: {page}\n" in result.stderr
    metadata = {entry.key: entry.value for entry in onnx.load("models/lstm/1/model.onnx").metadata_props}
    assert f"{float(output[1]) / 100:.4f}" == metadata["hangtag.test_accuracy"]


@pytest.mark.usefixtures("quick")
def test_a_models_name_takes_its_latest_finished_run(runs_dir: Path, tmp_path: Path) -> None:
    result = export("lstm", "--runs", runs_dir, "--models", tmp_path / "shop", "--timing", "none")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(f"exporting {runs_dir / 'newer'} in fp32\n")
    assert result.stdout.startswith(f"published {tmp_path / 'shop/lstm/1'}\n")
    assert (tmp_path / "reports/export/shop/lstm-1.html").is_file()  # not lstm-1.html, which is of models/


def test_ctrl_c_while_the_gate_works_ends_with_one_line(runs_dir: Path, tmp_path: Path) -> None:
    with forkserver.hangtag(["export", "older", "--runs", runs_dir]) as process:
        until(lambda: list(tmp_path.glob("models/.publishing-*")) or process.poll() is not None, 120)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "stopped; nothing was published"
    assert "Traceback" not in stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick")
def test_ctrl_c_after_publishing_says_that_the_version_is_there(
    runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "write_run_report", interrupt)
    result = export("older", "--runs", runs_dir, "--timing", "none")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "stopped; models/lstm/1 was published, without a report"
    assert (tmp_path / "models/lstm/1/model.onnx").is_file()


def test_the_error_about_an_unknown_run_lists_the_runs(runs_dir: Path, tmp_path: Path) -> None:
    result = export("nosuch", "--runs", runs_dir)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no finished run 'nosuch'" in result.stderr
    assert "runs there: begun, newer, older" in result.stderr
    assert "hangtag train MODEL" in result.stderr
    assert not list(tmp_path.iterdir())


def test_without_any_run_the_error_says_how_to_train_one() -> None:
    result = export("cnn")
    assert result.exit_code == 1
    assert "under runs there is no such run or model (runs there: none)" in result.stderr
    assert "Train one with: hangtag train cnn" in result.stderr


def test_a_run_that_is_not_finished_is_refused(runs_dir: Path, tmp_path: Path) -> None:
    result = export(runs_dir / "begun")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"Error: {runs_dir / 'begun'} is not finished (0 epochs so far). Continue with: " in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick")
def test_a_file_that_differs_is_refused(
    runs_dir: Path, lstm: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of a network, file of another."""

    def without_bias(model: onnx.ModelProto) -> None:
        (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "network.classifier.bias"]
        bias.raw_data = bytes(len(bias.raw_data))

    monkeypatch.setattr(torch_export, "to_onnx", exported_as(lstm.file, without_bias))
    result = export("older", "--runs", runs_dir)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.search(r"^Error: parity: batch 1: logits differ .*Nothing was published\.$", result.stderr, re.MULTILINE)
    assert not list(tmp_path.iterdir())


def test_without_the_data_set_the_error_names_the_option(runs_dir: Path, tmp_path: Path) -> None:
    result = export("older", "--runs", runs_dir, "--data-dir", tmp_path)
    assert result.exit_code == 1
    assert "--data-dir" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [(), ("lstm", "--precision", "int3"), ("lstm", "cnn")])
def test_a_wrong_command_exits_with_2(arguments: tuple[str, ...]) -> None:
    result = export(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
