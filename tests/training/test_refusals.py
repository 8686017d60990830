"""`hangtag train` refuses options and files with an error of one line."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kit.command import contents, hangtag, invoke, refusal
from tests.training.small_runs import TRAINED, Finished, command, state

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["transformer"], "there is no network 'transformer'. The networks are lstm, lstm-56, lstm-280, lstm2, cnn"),
        (["lstm", "--recipe", "better"], ": 'better' is not one of"),
        (
            ["lstm-56", "--recipe", "best"],
            "--recipe best: lstm-56 has no such recipe. Choose from: study, pictures.",
        ),
        (["sigmoids", "--recipe", "study"], "sigmoids has no such recipe. Choose from: multi-label"),
        (["lstm", "--data", "outfits"], "--data outfits: lstm learns only from pictures with a single label each, "),
        (["cnn_rnn", "--data", "fashion-mnist"], "cnn_rnn learns only from outfits or "),
        (["lstm", "--teacher", "cnn.onnx"], "--teacher cnn.onnx: recipe study learns only from the labels."),
        (
            ["cnn_rnn", "--balance", "--select", "balanced_accuracy"],
            "--balance and --select cannot be used with cnn_rnn",
        ),
        (["cnn", "--recipe", "best", "--set", "teacher=1"], "--set teacher=1: there is no such hyperparameter."),
        (["lstm", "--epochs", "0"], "--epochs"),
        (["lstm", "--seed", "-1"], "--seed"),
        (["lstm", "--epoch", "3"], "--epoch"),
        pytest.param(
            ["lstm", "--device", "cuda"],
            "PyTorch sees no CUDA device here. Use --device cpu.",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_explained_before_anything_is_read(tmp_path: Path, given: list[str], expected: str) -> None:
    result = invoke("train", *given, "--data-dir", tmp_path, "--out", tmp_path / "run", exit_code=2)
    assert expected in " ".join(result.output.split())
    assert "Usage: main train" in result.output


NO_BF16 = """
from hangtag.training import training_session
training_session.cpu_computes_lstms_in_bf16 = lambda: False
"""


@pytest.mark.parametrize(
    ("first", "arguments", "expected"),
    [
        # Without this check, PyTorch would fail in the first step, with an error about a missing primitive.
        (NO_BF16, ["lstm2", "--precision", "bf16", "--device", "cpu"], "and lstm2 has an LSTM. Use --precision fp32."),
        (NO_BF16, ["cnn_rnn", "--precision", "bf16", "--device", "cpu", "--data-dir", "."], "lacks train-images"),
        (
            "import sys; sys.modules['onnxruntime'] = None",
            ["lstm", "--recipe", "best", "--teacher", "cnn.onnx"],
            "learning from a teacher needs the Python module 'onnxruntime', which is not installed here.",
        ),
        # A C library may lack the setting that keeps freed memory. Training then runs without this setting.
        (
            "import ctypes; ctypes.CDLL = lambda _: object()",
            ["lstm", "--data-dir", "."],
            "lacks train-images-idx3-ubyte",
        ),
    ],
    ids=["bf16", "bf16 without nn.LSTM", "onnxruntime", "mallopt"],
)
def test_what_a_machine_lacks_is_named(tmp_path: Path, first: str, arguments: list[str], expected: str) -> None:
    stderr = hangtag("train", *arguments, "--out", tmp_path / "run", first=first, exit_codes=[1, 2]).stderr
    assert expected in " ".join(stderr.split())
    assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_replaced_by_a_run_that_starts_from_its_weights(finished: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    before = contents(folder)
    weights = folder / "best.pt"
    message = refusal(*TRAINED, "--start-from", weights, "--restart", "--out", folder)
    assert message.startswith(f"--restart would delete the run that holds {weights}.")
    assert contents(folder) == before


def test_too_few_images_for_batch_normalisation_leave_no_folder(tmp_path: Path) -> None:
    arguments = command("cnn", "--recipe", "teacher", "--out", tmp_path / "run", limit=1)
    for options in ([], ["--dry-run"]):
        assert "batch normalisation needs at least 2 training images, and there are 1." in refusal(*arguments, *options)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        assert refusal(*TRAINED, "--out", folder).startswith(f"{folder} cannot be written (")


# Damaged files, and files of another run.


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "checkpoint.pt", "best.pt"])
def test_a_broken_file_is_named_in_one_line_before_the_training(broken_off: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(broken_off, tmp_path / "run"))
    whole = (folder / name).read_bytes()
    for broken in (b"", b"hello\n", b"\xff\xfe", b"[]", bytes(1000), b"\x80\x04K\x01.", whole[: len(whole) // 2]):
        (folder / name).write_bytes(broken)
        message = refusal(*TRAINED, "--out", folder, unchanged=folder)
        assert message.startswith(f"{folder / name} ")
        assert "--restart" in message
        assert "weights_only" not in message  # PyTorch's own message recommends running code from the file


@pytest.mark.parametrize("name", ["best.pt", "metrics.json"])
def test_files_of_an_unknown_run_are_refused(finished: Finished, tmp_path: Path, name: str) -> None:
    shutil.copy(finished.folder / name, tmp_path)
    message = f"{tmp_path} holds {name} but no config.json, so it is unknown which run they belong to. Choose another"
    assert message in refusal(*TRAINED, "--out", tmp_path)
    assert message in invoke(*TRAINED, "--dry-run", "--out", tmp_path).stderr


def test_states_of_another_run_are_refused_before_the_training(broken_off: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(broken_off, tmp_path / "run"))
    best, checkpoint = state(folder, "best.pt"), state(folder, "checkpoint.pt")
    linear = torch.nn.Linear(2, 2)
    others: dict[str, list[Any]] = {
        "best.pt": [
            {"epoch": 1}, {"model": best["model"]}, best | {"model": None}, best | {"model": linear.state_dict()},
            best | {"epoch": None}, torch.zeros(3),
        ],
        "checkpoint.pt": [
            best, checkpoint | {"model": linear.state_dict()},
            checkpoint | {"optimizer": torch.optim.Adam(linear.parameters()).state_dict()},
            checkpoint | {"rng": [{"cpu": torch.zeros(3, dtype=torch.uint8)}]}, checkpoint | {"rng": []},
        ],
    }  # fmt: skip
    for name, states in others.items():
        whole = (folder / name).read_bytes()
        for other in states:
            torch.save(other, folder / name)
            before = contents(folder)
            assert refusal(*TRAINED, "--out", folder).startswith(f"{folder / name} ")
            assert contents(folder).items() >= before.items()
        (folder / name).write_bytes(whole)


def test_a_full_disk_leaves_the_old_file(broken_off: Path, tmp_path: Path) -> None:
    for name in ("config.json", "best.pt", "checkpoint.pt", "metrics.json"):
        folder = Path(shutil.copytree(broken_off, tmp_path / f"without-space-for-{name}"))
        (folder / f"{name}.tmp").unlink(missing_ok=True)
        (folder / f"{name}.tmp").symlink_to("/dev/full")
        threads = 2 if name == "config.json" else 1  # the command writes config.json only if it differs
        message = refusal(*TRAINED, "--threads", threads, "--out", folder)
        assert message == f"{folder / name} cannot be written (No space left on device)."
        assert (folder / name).read_bytes() == (broken_off / name).read_bytes()
