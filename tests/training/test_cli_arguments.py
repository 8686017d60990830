import re
import shlex
from pathlib import Path

import pytest
import torch

from hangtag.training.catalog import NETWORKS
from hangtag.training.cli import train
from tests.training.command import hangtag, one_error

# Wrong arguments.


def test_a_missing_data_set_is_one_line(tmp_path: Path) -> None:
    message = one_error(hangtag(["train", "lstm", "--data-dir", str(tmp_path)], tmp_path / "run"))
    assert message.startswith(f"Error: {tmp_path} lacks train-images-idx3-ubyte, ")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = one_error(hangtag(arguments, tmp_path / "file" / "run"))
    assert message == f"Error: {tmp_path / 'file' / 'run'} cannot be written (Not a directory)."


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["transformer"], "'transformer' is not one of 'lstm', 'lstm-56', 'lstm-280', 'lstm2', 'cnn'"),
        (["lstmm"], "'cnn_embedding'. Did you mean 'lstm'?"),
        ([], "Missing argument"),
        (["lstm", "--recipe", "better"], "--recipe': 'better' is not"),
        (["lstm-56", "--recipe", "best"], "--recipe best: there is no such recipe for lstm-56; it has: study."),
        (
            ["lstm", "--teacher", "cnn.onnx"],
            "--teacher cnn.onnx: recipe study learns from the labels alone. Leave --teacher out or use --recipe best.",
        ),
        (["lstm", "--loss", "soft-labels", "--beta", "nan"], "'nan' is not a finite number"),
        (["lstm", "--loss", "soft-labels", "--beta", "inf"], "'inf' is not a finite number"),
        (["lstm", "--loss-weight", "nan"], "'nan' is not a finite number"),
        (
            ["cnn_rnn", "--beta", "3"],
            "--beta: cnn_rnn has a loss of its own; these options are for networks that predict a single label.",
        ),
        (["cnn_rnn", "--loss", "soft-labels"], "--loss: cnn_rnn has a loss of its own"),
        (["lstm", "--epochs", "0"], "--epochs"),
        (["lstm", "--limit", "0"], "--limit"),
        (["lstm", "--threads", "0"], "--threads"),
        (["lstm", "--seed", "-1"], "--seed"),
        (["lstm", "--seed", str(2**70)], "--seed"),
        (["lstm", "--epoch", "3"], "--epoch"),
        pytest.param(
            ["lstm", "--device", "cuda"],
            "PyTorch sees no CUDA device here. Use --device cpu.",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_explained(tmp_path: Path, given: list[str], expected: str) -> None:
    # Before anything is read: the data set would not be found.
    result = hangtag(["train", *given, "--data-dir", str(tmp_path)], tmp_path / "run")
    assert result.exit_code == 2
    assert expected in result.output
    assert "Usage: main train" in result.output


def test_a_loss_from_a_variable_is_not_ignored_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGTAG_TRAIN_LOSS", "soft-labels")
    result = hangtag(["train", "cnn_rnn", "--data-dir", str(tmp_path)], tmp_path / "run")
    assert result.exit_code == 2
    assert "--loss: cnn_rnn has a loss of its own" in result.output


# Help.


def test_help_names_every_model_and_option() -> None:
    result = hangtag(["train", "--help"])
    assert result.exit_code == 0
    text = "".join(result.stdout.split())
    for taught in (
        *NETWORKS, "--recipe", "--seed", "--data-dir", "--out", "--epochs", "--limit", "--threads", "--device",
        "--processes", "--precision", "--teacher", "--restart", "Debian's package", "runs/MODEL-RECIPE-seedSEED",
        "config.json, metrics.json and best.pt", "by O-F1 for several labels",
        "resumes after its last finished epoch", "Ctrl-C", "Examples:",
    ):  # fmt: skip
        assert "".join(taught.split()) in text, taught


def test_the_examples_in_the_help_are_valid() -> None:
    examples = re.findall(r"^ *.*hangtag train (.+?)(?:   .*)?$", hangtag(["train", "--help"]).stdout, re.MULTILINE)
    assert len(examples) == 9
    for example in examples:
        assert train.make_context("train", shlex.split(example)).params["model"] in NETWORKS


def test_every_option_is_explained() -> None:
    described = {option.name: getattr(option, "help", None) for option in train.params if option.name != "model"}
    assert [name for name, text in described.items() if not text] == []
