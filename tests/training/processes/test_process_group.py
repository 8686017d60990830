"""Two ranks in real processes, with gloo. Most are forked; one run is started by torchrun, and one by --processes."""

import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from hangtag.training.errors import ProcessesError
from hangtag.training.processes import launch
from hangtag.training.processes.distributed import DistributedGroup, process_group
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.runs.run import Run
from tests.kit import forkserver, shipped
from tests.training.command import hangtag, wait_until
from tests.training.configs import make_config, weights
from tests.training.processes.ranks import fork, run_ranks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
TORCHRUN_TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def assert_close(one: Path, other: Path) -> None:
    metrics = [Run(folder).read_metrics() for folder in (one, other)]
    for row, expected in zip(metrics[0]["epochs"], metrics[1]["epochs"], strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
        assert row["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-4)
    assert metrics[0]["summary"]["test"]["accuracy"] == pytest.approx(
        metrics[1]["summary"]["test"]["accuracy"], abs=1e-3
    )
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=1e-3, atol=1e-4)


def test_two_ranks_give_the_single_process_result_and_resume_after_a_break(raw_dir: Path, tmp_path: Path) -> None:
    # 65 samples in batches of 32: the last batch is one sample, so that one process has none.
    assert run_ranks(raw_dir, "lstm", tmp_path / "one", 1) == 0
    assert run_ranks(raw_dir, "lstm", tmp_path / "two", 2) == 0
    assert_close(tmp_path / "two", tmp_path / "one")
    assert Run(tmp_path / "two").read_config()["processes"] == 2

    assert run_ranks(raw_dir, "lstm", tmp_path / "broken", 2, fate="die") != 0
    assert len(Run(tmp_path / "broken").read_metrics()["epochs"]) == 1
    assert run_ranks(raw_dir, "lstm", tmp_path / "broken", 2) == 0
    assert_close(tmp_path / "broken", tmp_path / "one")


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the processes that --processes starts, which are forked here, write to the terminal."""
    file = tmp_path / "outputs.txt"
    monkeypatch.setattr(launch, "start_processes", partial(fork, outputs=file))
    return file


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lstm", "--data-dir", "nowhere"], "Error: nowhere lacks train-images-idx3-ubyte"),  # by each
        (["cnn", "--epochs", "2"], "holds a run with another "),  # by the first
    ],
)
def test_an_error_is_reported_once(
    raw_dir: Path, tmp_path: Path, outputs: Path, arguments: list[str], message: str
) -> None:
    run = tmp_path / "run"
    with Run(run).lock():
        Run(run).start(make_config("cnn"))
    usual = ["--data-dir", str(raw_dir), "--device", "cpu", "--out", str(run), "--processes", "2"]
    assert hangtag(["train", *usual, *arguments]).exit_code == 1
    errors = outputs.read_text()
    assert errors.count(message) == errors.count("Error: ") == 1
    assert "Traceback" not in errors


@pytest.mark.parametrize("rank", [0, 1])
def test_of_torchruns_processes_the_first_reports_an_error(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    for arguments, status in ((["--data-dir", "nowhere"], 1), (["--teacher", "cnn.onnx"], 2)):
        result = hangtag(["train", "lstm", *arguments])
        assert result.exit_code == status
        assert result.output.count("Error: ") == (1 if rank == 0 else 0)
        assert rank == 0 or not result.output


def test_a_run_that_diverges_in_one_rank_ends_in_all(raw_dir: Path, tmp_path: Path) -> None:
    assert run_ranks(raw_dir, "cnn", tmp_path / "spoiled", 2, fate="diverge") == 1
    errors = (tmp_path / "errors.txt").read_text()
    assert errors.count("the loss became nan in epoch 2, by step ") == 2  # each raises the same
    assert len(Run(tmp_path / "spoiled").read_metrics()["epochs"]) == 1


def test_the_command_starts_processes_and_reports_everything_once(raw_dir: Path, tmp_path: Path, outputs: Path) -> None:
    teacher = shipped.latest("cnn")
    arguments = [
        "train", "lstm", "--recipe", "best", "--teacher", str(teacher), "--data-dir", str(raw_dir), "--limit", "65",
        "--epochs", "1", "--threads", "1", "--device", "cpu",
    ]  # fmt: skip
    done = hangtag([*arguments, "--processes", "2"], tmp_path / "two")
    reports = outputs.read_text()
    assert done.exit_code == 0, reports
    assert reports.count("best epoch 1: ") == 1
    assert re.search(r"2 processes with 1 thread\b", reports)
    assert Run(tmp_path / "two").read_config()["processes"] == 2
    assert "--processes 2 --threads 1" in Run(tmp_path / "two").command()
    # Each rank computed the logits of half of the images, and both trained on all of them.
    assert hangtag(arguments, tmp_path / "one").exit_code == 0
    losses = [Run(tmp_path / name).read_metrics()["epochs"][0]["train_loss"] for name in ("two", "one")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # augmentation differs between the processes


def test_ctrl_c_stops_all_processes_with_one_line(raw_dir: Path, tmp_path: Path) -> None:
    arguments = [
        "train", "lstm", "--processes", "2", "--data-dir", str(raw_dir), "--limit", "640", "--epochs", "200",
        "--threads", "1", "--device", "cpu", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    with forkserver.hangtag(arguments) as process:
        wait_until((tmp_path / "run" / "metrics.json").is_file, process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stderr.count("stopped. Continue from the last finished epoch with: hangtag train lstm ") == 1
    assert "Traceback" not in stderr
    assert not Run(tmp_path / "run").is_finished()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE is set to 2, .* but RANK, LOCAL_RANK, .*MASTER_PORT are not set.*unset WORLD_SIZE",
        ),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is set to 'two' and must be a whole number"),
    ],
)
def test_variables_that_form_no_process_group_are_explained(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessesError, match=message), process_group("cpu"):
        pytest.fail("they made a group")


def test_a_rank_cannot_start_processes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = hangtag(["train", "lstm", "--processes", "2"])
    assert result.exit_code == 2
    assert "--processes: WORLD_SIZE is set, so torchrun has started the processes already." in result.output


def test_the_command_runs_under_torchrun_and_reports_everything_once(raw_dir: Path, tmp_path: Path) -> None:
    command = [
        *TORCHRUN_TWO, "-m", "hangtag", "train", "lstm", "--data-dir", str(raw_dir), "--limit", "64",
        "--epochs", "1", "--threads", "1", "--device", "cpu", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert len(re.findall("best epoch 1: ", done.stderr)) == 1
    assert re.search(r"2 processes with 1 thread\b", done.stderr)


def test_ranks_share_a_batch_with_equal_weight_for_every_sample() -> None:
    batch = torch.arange(7)
    parts = [DistributedGroup(rank, 3).share_of(batch) for rank in range(3)]
    assert sorted(torch.cat([indices for indices, _ in parts]).tolist()) == batch.tolist()
    # DistributedDataParallel averages over the three processes.
    for indices, weight in parts:
        assert weight / 3 / len(indices) == pytest.approx(1 / 7)
    assert ProcessGroup().share_of(batch)[1] == 1.0


def test_a_rank_without_samples_recomputes_one_with_weight_0() -> None:
    indices, weight = DistributedGroup(2, 3).share_of(torch.tensor([4, 5]))
    assert (indices.tolist(), weight) == ([4], 0.0)
