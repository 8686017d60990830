"""`python -m studies server run`: which systems and loads it measures, and what it records."""

import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from studies import results
from studies.page import ROOT
from studies.server.peers import earlier
from studies.server.peers.bare import bare
from studies.server.run import main
from studies.server.systems import EARLIER

pytestmark = pytest.mark.slow

NEEDS_H2LOAD = pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load (Debian: nghttp2-client)")
NEEDS_HISTORY = pytest.mark.skipif(
    subprocess.run(["git", "-C", ROOT, "cat-file", "-e", EARLIER], stderr=subprocess.DEVNULL).returncode != 0,
    reason="needs the repository's history: run 'git fetch --unshallow'",
)
FIGURES = {"samples_per_s", "p50_ms", "p99_ms", "cpus", "mean_batch"}


@NEEDS_H2LOAD
@NEEDS_HISTORY
def test_this_server_an_earlier_one_and_bare_onnx_runtime_are_measured_in_rounds(
    lstm_and_cnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    out = tmp_path / "results.jsonl"
    options = ["--only", "native,hot,bare", "--loads", "start,1", "--rounds", "1", "--seconds", "0.1"]
    result = CliRunner().invoke(
        main, [*options, "--models", str(lstm_and_cnn), "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    lines = results.read(out)
    assert list(lines) == ["conditions", "round 1"]
    assert lines["conditions"]["commit"] == EARLIER
    assert "--only native,hot,bare --loads 1,start" in lines["conditions"]["command"]
    turn = lines["round 1"]
    assert 0 <= turn["others"] <= 1
    for model in ("lstm", "cnn"):
        for system in ("native", "hot"):
            loads = turn[system][model]
            assert {load: set(figures) for load, figures in loads.items()} == {"1": FIGURES}
        assert all(turn["bare"][model][load]["samples_per_s"] > 10 for load in ("1", "batch"))
    assert turn["hot"]["start"]["pss_mb"] > 10
    assert "1 in flight, p50, ms" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "native,tritn"], "tritn: expected some of native,grpc,tls,hot,ordinary,triton,minimal,bare"),
        (["--loads", "2"], "2: expected some of 1,4,16,64,batch,poisson,overload,start"),
        (["--only", "bare"], "--only names no server"),
    ],
)
def test_names_that_it_does_not_know_are_refused(options: list[str], message: str) -> None:
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@NEEDS_HISTORY
def test_a_worktree_of_the_earlier_commit_is_removed_after_use() -> None:
    with earlier.worktree(EARLIER) as folder:
        assert (folder / "hangtag/serving/server/transport/hot").is_dir()
    worktrees = subprocess.run(["git", "-C", ROOT, "worktree", "list"], capture_output=True, text=True, check=True)
    assert str(folder) not in worktrees.stdout
    assert not folder.exists()


def test_a_commit_that_is_not_there_is_refused_with_what_to_do() -> None:
    with pytest.raises(click.ClickException, match=r"cannot check out commit feed(.|\n)*--unshallow"):
        earlier.worktree("feed" * 10).__enter__()


def test_bare_onnx_runtime_says_that_its_process_ended(lstm_and_cnn: Path) -> None:
    with bare(lstm_and_cnn, 2) as runtime, pytest.raises(click.ClickException, match="bare ONNX Runtime ended"):
        runtime.measure("no such model", 1, 0.01)
