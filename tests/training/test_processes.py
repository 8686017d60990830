"""Two processes that train with gloo get the same results as a single process, and report everything only once."""

import math
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from hangtag.training.errors import DivergedError
from hangtag.training.processes import process_group
from tests.kit import forkserver, garments, shipped
from tests.kit.command import refusal
from tests.kit.forkserver import Forked
from tests.training.small_runs import OnStep, config, learn, read, train, wait_for_file, weights

pytestmark = pytest.mark.slow

USUAL = ("--limit", "65", "--epochs", "1", "--threads", "1", "--device", "cpu")


def of_two() -> list[dict[str, str]]:
    """The variables that torchrun sets for each of two processes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


def ended(processes: list[Forked]) -> list[tuple[int | None, str, str]]:
    """The exit code and the outputs of each process."""
    outputs = []
    for process in processes:
        with process:
            stdout, stderr = process.communicate(120)
            outputs.append((process.returncode, stdout, stderr))
    return outputs


def commands_of_two(*arguments: object) -> list[tuple[int | None, str, str]]:
    """Run the command twice, as torchrun does."""
    words = ["train", *map(str, arguments)]
    return ended([forkserver.hangtag(words, variables=each, first=garments.FEW_FIRST) for each in of_two()])


# Equal numbers.


def train_rank(folder: Path, model: str, fate: str) -> None:
    """Train for three epochs in another process.

    Args:
        fate: ``live``: nothing happens. ``die``: every rank exits with 3 in the second epoch. ``diverge``: after the
            first epoch, the cnn of rank 1 computes only nan.
    """
    torch.set_num_threads(1)
    plain = config(model, limit=65, epochs=3)
    # Each rank has its own dropout. Without dropout, two ranks give the results of one process, up to rounding.
    plain = replace(plain, recipe=replace(plain.recipe, dropout=0.0, ema_decay=0.9))
    with process_group("cpu") as group:

        def act(epoch: int, step: int, steps: int) -> None:
            if fate == "die" and (epoch, step) == (2, 2):
                raise SystemExit(3)
            if fate == "diverge" and (epoch, step) == (1, steps) and group.rank == 1:
                register_module_forward_hook(lambda _, inputs, output: output * math.nan)

        whole = replace(plain, processes=group.world_size)
        try:
            learn(whole, garments.few(), folder, OnStep(act), group=group)
        except DivergedError as error:
            sys.stderr.write(f"{error}\n")
            raise SystemExit(1) from None


def run_ranks(folder: Path, model: str = "lstm", fate: str = "live") -> list[tuple[int | None, str, str]]:
    return ended([Forked(train_rank, folder, model, fate, variables=each) for each in of_two()])


def assert_close(one: Path, other: Path) -> None:
    metrics = [read(folder) for folder in (one, other)]
    for row, expected in zip(metrics[0]["epochs"], metrics[1]["epochs"], strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
        assert row["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-4)
    accuracies = [each["summary"]["test"]["accuracy"] for each in metrics]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.011)  # of 100 images
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=1e-3, atol=1e-4)


def test_two_ranks_give_the_single_process_result_and_resume_after_a_break(tmp_path: Path) -> None:
    # 65 samples in batches of 32 leave one sample for the last batch, so one rank gets none of this batch.
    with Forked(train_rank, tmp_path / "one", "lstm", "live") as single:
        assert single.wait(120) == 0, single.communicate()
    assert [code for code, *_ in run_ranks(tmp_path / "two")] == [0, 0]
    assert_close(tmp_path / "two", tmp_path / "one")
    assert read(tmp_path / "two", "config.json")["processes"] == 2

    assert 0 not in [code for code, *_ in run_ranks(tmp_path / "broken", fate="die")]
    assert len(read(tmp_path / "broken")["epochs"]) == 1
    assert [code for code, *_ in run_ranks(tmp_path / "broken")] == [0, 0]
    assert_close(tmp_path / "broken", tmp_path / "one")


def test_a_run_that_diverges_in_one_rank_ends_in_all(tmp_path: Path) -> None:
    for code, _, stderr in run_ranks(tmp_path / "spoiled", "cnn", fate="diverge"):
        assert code == 1
        assert "the loss became nan in epoch 2, by step " in stderr
    assert len(read(tmp_path / "spoiled")["epochs"]) == 1


# The command under torchrun or a similar program.


def test_two_commands_train_one_run_and_report_it_once(tmp_path: Path) -> None:
    arguments = ("lstm", "--recipe", "best", "--teacher", shipped.latest("lstm"), *USUAL)
    (first, _, report), (second, *silent) = commands_of_two(*arguments, "--out", tmp_path / "two")
    assert (first, second) == (0, 0), report
    assert "epoch" not in "".join(silent)
    assert report.count("best epoch 1: ") == 1
    assert re.search(r"2 processes with 1 thread\b", report)
    assert read(tmp_path / "two", "config.json")["processes"] == 2
    # Each rank computes a teacher's logits for half of the images, but trains with all logits.
    with pytest.MonkeyPatch.context() as patch:
        garments.use_few(patch)
        train("lstm", tmp_path / "one", *arguments[1:])
    losses = [read(tmp_path / name)["epochs"][0]["train_loss"] for name in ("two", "one")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # the two processes augment images differently


@pytest.mark.parametrize(
    ("variables", "options", "expected"),
    [
        ({"WORLD_SIZE": "2"}, [], r"WORLD_SIZE is set to 2, .* cannot form a group \(.*RANK expected, but not set"),
        ({"WORLD_SIZE": "2"}, ["--processes", "2"], r"--processes: WORLD_SIZE is set, so torchrun has started"),
    ],
)
def test_variables_that_form_no_process_group_are_explained(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], options: list[str], expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert re.search(expected, refusal("train", "lstm", *options, exit_code=2 if options else 1))


def test_the_command_runs_under_torchrun(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "hangtag", "train", "lstm", *USUAL, "--dry-run", "--out", str(tmp_path / "run")]
    with forkserver.ForkedModule(command) as launcher:  # torchrun is forked, and starts the two processes
        stdout, stderr = launcher.communicate(240)
    assert launcher.returncode == 0, stderr
    assert stdout.count("162,574 parameters") == 1
    assert re.search(r"2 processes with 1 thread\b", stdout)


# The option --processes.


def test_ctrl_c_stops_all_processes_with_one_line_and_errors_are_reported_once(tmp_path: Path) -> None:
    usual = ["--threads", "1", "--device", "cpu", "--out", str(tmp_path / "run"), "--processes", "2"]
    with forkserver.hangtag(["train", "lstm", "--limit", "640", "--epochs", "200", *usual]) as process:
        wait_for_file(tmp_path / "run" / "metrics.json", process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stderr.count("stopped. Continue from the last finished epoch with: hangtag train lstm ") == 1
    assert "--processes 2 --threads 1" in stderr
    assert "Traceback" not in stderr
    assert re.search(r"2 processes with 1 thread\b", stderr)
    assert "summary" not in read(tmp_path / "run")
    with forkserver.hangtag(["train", "cnn", "--limit", "640", *usual]) as process:
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert stderr.count("holds a run with another ") == stderr.count("Error: ") == 1
    assert "Traceback" not in stderr
