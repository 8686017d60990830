"""`python -m studies`: what it lists, and what its commands refuse before they measure anything."""

import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from studies.__main__ import main
from studies.catalog import EXPERIMENTS
from studies.http.systems import fastapi
from studies.routes.repository import repository as routes_repository
from studies.server.peers import earlier
from studies.server.peers.triton import triton
from studies.server.process import Launch, Served, hangtag_serve
from studies.train_step.worker import worker
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_it_lists_every_experiment_with_its_question_cost_and_pages() -> None:
    output = run().output
    for name, experiment in EXPERIMENTS.items():
        assert f"{name}: {experiment.question}" in output
        assert experiment.cost in output
        assert all(page in output for page in experiment.pages)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_command_explains_itself(name: str) -> None:
    for command in (*EXPERIMENTS[name].commands, *(["report"] if EXPERIMENTS[name].report else [])):
        result = run(name, command, "--help")
        assert result.exit_code == 0
        assert len(result.output.split("\n\n")[1].strip()) > 40  # its sentence


def test_a_dry_run_prints_the_commands_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no teacher has been exported
    result = run("accuracy", "run", "--dry-run", "--out", tmp_path / "results.jsonl", "--", "--threads", "2")
    assert result.exit_code == 0, result.output
    commands = result.output.splitlines()
    assert commands[0] == "hangtag train lstm --seed 0 --precision fp32 --out runs/lstm-study-seed0 --threads 2"
    teacher = "hangtag train resnet-28x28 --seed 0 --precision bf16 --out runs/resnet-28x28-teacher-seed0 --threads 2"
    assert commands[commands.index(teacher) + 1] == (
        "hangtag export runs/resnet-28x28-teacher-seed0 --models runs/teachers --precision int8 --timing none"
    )
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("accuracy", "run", "--only", "gru"), 1, "no run's name fits 'gru'"),
        (("server", "run", "--only", "native,tritn"), 2, "tritn: expected some of native,grpc,tls,"),
        (("server", "run", "--only", "bare"), 2, "--only names no server"),
        (("soak", "run", "--hours", "1", "--minutes", "5", "--models", MODELS), 2, "not both"),
        (("exported", "instructions", "--models", MODELS), 1, "perf is missing"),
        (("shipped", "page-picture"), 1, "chromium is missing"),
        (("hosts", "run"), 1, "no hosts can be made here"),
        (("train_step", "run", "--keras-python", sys.executable, "--python", sys.executable), 1, "has no keras"),
        (("gpu", "run", "--models", "none", "--provider", "cpu"), 1, "is not a folder"),
    ],
)
def test_what_is_wrong_or_missing_is_named_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str | Path, ...], code: int, message: str
) -> None:
    monkeypatch.setenv("PATH", "")
    result = run(*words)
    assert result.exit_code == code
    assert message in " ".join(result.output.split())


def test_a_system_that_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    for attempt, message in (
        (lambda: fastapi(MODELS, tmp_path), "'make fastapi'"),
        (lambda: triton(MODELS, tmp_path).__enter__(), "'make triton'"),
        (lambda: earlier.worktree("feed" * 10).__enter__(), "'git fetch --unshallow'"),
        (lambda: routes_repository(MODELS, "nobody").__enter__(), "has no nobody"),
        (lambda: worker(["gone"]).__enter__(), "gone cannot be started"),
        (lambda: Served(Launch(("nothing",), "ready")), "nothing cannot be run"),
        (lambda: Served(hangtag_serve(tmp_path / "none")), "did not start (exit code 1):"),
    ):
        with pytest.raises(click.ClickException) as refused:
            attempt()
        assert message in refused.value.message
