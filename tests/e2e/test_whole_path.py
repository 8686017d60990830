"""Trains, exports, serves, classifies, load-tests and stops: each step by its command, on the results of the last."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data.fashion_mnist import LABELS
from tests.e2e.processes import ROOT, hangtag, serving

pytestmark = pytest.mark.slow

GARMENTS = sorted((ROOT / "examples/garments").glob("*.png"))


def test_train_export_serve_classify_load_test_stop(tmp_path: Path) -> None:
    run, models = tmp_path / "run", tmp_path / "models"

    trained = hangtag("train", "lstm", "--limit", "640", "--epochs", "1", "--threads", "1", "--out", run)
    assert f"next: hangtag export {run}" in trained.stderr

    exported = hangtag("export", run, "--models", models, "--timing", "none")
    assert exported.stdout.startswith(f"published {models / 'lstm/1'}\n")
    assert "  parity       logits within " in exported.stdout

    with serving(models) as server:
        ready = hangtag("health", "--server", server.address, "--wait", "30")
        assert ready.stdout == f"the server at {server.address} is ready\n"

        classified = hangtag("classify", *GARMENTS, "--model", "lstm", "--server", server.address, "--json")
        _check_answers(classified.stdout, models / "lstm/1/model.onnx")

        _load_test(server.address, tmp_path)

        assert server.stop() == 0
        assert "event=stopping" in server.log
        assert "event=stopped" in server.log
        unreachable = hangtag("health", "--server", server.address, exit_codes=(1,))
        assert f"no server answers at {server.address}" in unreachable.stderr


def _check_answers(lines: str, file: Path) -> None:
    """`classify --json` prints one object per line in the order of the arguments, each with the model file's answer."""
    answers = [json.loads(line) for line in lines.splitlines()]
    assert [answer["image"] for answer in answers] == [str(path) for path in GARMENTS]
    pixels = np.stack([np.asarray(Image.open(path)) for path in GARMENTS])
    expected = Runtime(file, provider="cpu").run({"image": pixels})["probabilities"]
    for answer, probabilities in zip(answers, expected, strict=True):
        assert (answer["model"], answer["version"]) == ("lstm", "1")
        best = np.argsort(-probabilities)[:3]
        assert [label["name"] for label in answer["labels"]] == [LABELS[index] for index in best]
        served = [label["probability"] for label in answer["labels"]]
        np.testing.assert_allclose(served, probabilities[best], atol=1e-4)


def _load_test(address: str, folder: Path) -> None:
    """One closed and one open loop, with the shortest valid runs, and both reports."""
    short = ("--min-duration", "0.3", "--min-query-count", "20", "--blocks", "2", "--warm-up", "0.05")
    loads = ("--concurrency", "2", "--rate", "20", "--images", "examples/garments")
    reports = ("--json", folder / "load.json", "--html", folder / "load.html")
    process = hangtag("loadtest", "lstm", "--server", address, *short, *loads, *reports, exit_codes=(0, 1))
    results = json.loads((folder / "load.json").read_text())
    assert process.returncode == (0 if results["valid"] else 1)
    closed_loop, open_loop = results["runs"]
    assert (closed_loop["load"]["kind"], open_loop["load"]["kind"]) == ("closed loop", "open loop")
    assert closed_loop["problems"] == []
    # On a busy machine sends may be late, and the run is then invalid. No other problem is accepted.
    assert all("the generator could not keep up" in problem for problem in open_loop["problems"])
    for run in (closed_loop, open_loop):
        assert run["total"]["statuses"] == {"OK": run["total"]["queries"]}
        assert run["total"]["queries"] >= 20
        assert 0 < run["total"]["latency"]["p50"] <= run["total"]["latency"]["p99"]
    page = (folder / "load.html").read_text()
    assert "<svg" in page
    assert "lstm" in page
