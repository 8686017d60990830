"""Two real processes under torchrun, with gloo."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.configs import weights
from training.distributed import Group
from training.run import Run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]

# Dropout differs between the processes, as it must; without it the two runs are the same but for rounding.
SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.training.configs import make_config
from training import data, trainer
from training.distributed import joined
from training.run import Run

model, folder, limit, die = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "die"
config = make_config(model, limit=limit, epochs=3)
config = replace(config, recipe=replace(config.recipe, dropout=0.0, ema_decay=0.9))

def report(at):
    if die and (at.epoch, at.step) == (2, 2):
        raise SystemExit(3)

with joined("cpu") as group:
    config = replace(config, processes=group.size)
    trainer.train(config, data.load(Path(sys.argv[1])), Run(folder), report, group=group)
"""


def run(raw_dir: Path, model: str, folder: Path, processes: int, limit: int = 65, die: bool = False) -> int:
    script = folder.parent / "script.py"
    script.write_text(SCRIPT)
    launch = [*TORCHRUN, str(processes)] if processes > 1 else [sys.executable]
    command = [*launch, str(script), str(raw_dir), model, str(folder), str(limit), "die" if die else "live"]
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, timeout=240).returncode


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


def test_two_processes_give_the_single_process_result_and_go_on_after_a_break(raw_dir: Path, tmp_path: Path) -> None:
    # 65 samples in batches of 32: the last batch is one sample, so that one process has none.
    assert run(raw_dir, "lstm", tmp_path / "one", 1) == 0
    assert run(raw_dir, "lstm", tmp_path / "two", 2) == 0
    assert_close(tmp_path / "two", tmp_path / "one")
    assert Run(tmp_path / "two").read_config()["processes"] == 2

    assert run(raw_dir, "lstm", tmp_path / "broken", 2, die=True) != 0
    assert len(Run(tmp_path / "broken").read_metrics()["epochs"]) == 1
    assert run(raw_dir, "lstm", tmp_path / "broken", 2) == 0
    assert_close(tmp_path / "broken", tmp_path / "one")


def test_the_command_runs_under_torchrun_and_says_everything_once(raw_dir: Path, tmp_path: Path) -> None:
    command = [
        *TORCHRUN, "2", "-m", "hangtag", "train", "lstm", "--data-dir", str(raw_dir), "--limit", "64",
        "--epochs", "1", "--threads", "1", "--device", "cpu", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert len(re.findall("best epoch 1: ", done.stderr)) == 1
    assert "2 processes with 1 threads" in done.stderr


def test_every_sample_of_a_batch_is_answered_once_and_weighs_the_same() -> None:
    batch = torch.arange(7)
    parts = [Group(rank, 3).part(batch) for rank in range(3)]
    assert sorted(torch.cat([indices for indices, _ in parts]).tolist()) == batch.tolist()
    # DistributedDataParallel averages over the three processes.
    for indices, weight in parts:
        assert weight / 3 / len(indices) == pytest.approx(1 / 7)
    assert Group().part(batch)[1] == 1.0


def test_a_process_without_samples_takes_part_at_no_weight() -> None:
    indices, weight = Group(2, 3).part(torch.tensor([4, 5]))
    assert (indices.tolist(), weight) == ([4], 0.0)
