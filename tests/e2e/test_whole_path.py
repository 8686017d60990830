"""Train, export, serve, classify, load-test, stop: every step by its command, each from what the one before left."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data.fashion_mnist import LABELS
from tests.e2e.processes import ROOT, hangtag, serving

GARMENTS = sorted((ROOT / "examples/garments").glob("*.png"))


def test_from_images_to_answers(tmp_path: Path) -> None:
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
        gone = hangtag("health", "--server", server.address, exit_codes=(1,))
        assert f"no server answers at {server.address}" in gone.stderr


def _check_answers(lines: str, file: Path) -> None:
    """One object a line, in the order of the command, and the same answers as the file itself gives."""
    answers = [json.loads(line) for line in lines.splitlines()]
    assert [answer["image"] for answer in answers] == [str(path) for path in GARMENTS]
    pixels = np.stack([np.asarray(Image.open(path)) for path in GARMENTS])
    expected = Runtime(file, provider="cpu").run({"image": pixels})["probabilities"]
    for answer, probabilities in zip(answers, expected, strict=True):
        assert (answer["model"], answer["version"]) == ("lstm", "1")
        best = np.argsort(-probabilities)[:3]
        assert [label["name"] for label in answer["labels"]] == [LABELS[index] for index in best]
        given = [label["probability"] for label in answer["labels"]]
        np.testing.assert_allclose(given, probabilities[best], atol=1e-4)


def _load_test(address: str, folder: Path) -> None:
    """A closed and an open loop, as short as they come, with both reports."""
    short = ("--min-duration", "0.3", "--min-query-count", "20", "--blocks", "2", "--warm-up", "0.05")
    loads = ("--concurrency", "2", "--rate", "20", "--images", "examples/garments")
    reports = ("--json", folder / "load.json", "--html", folder / "load.html")
    ended = hangtag("loadtest", "lstm", "--server", address, *short, *loads, *reports, exit_codes=(0, 1))
    results = json.loads((folder / "load.json").read_text())
    assert ended.returncode == (0 if results["valid"] else 1)
    closed, opened = results["runs"]
    assert (closed["load"]["kind"], opened["load"]["kind"]) == ("closed loop", "open loop")
    assert closed["problems"] == []
    # A busy machine may send late, which the load test rightly refuses to call valid. Nothing else may be wrong.
    assert all("the generator could not keep up" in problem for problem in opened["problems"])
    for run in (closed, opened):
        assert run["total"]["statuses"] == {"OK": run["total"]["queries"]}
        assert run["total"]["queries"] >= 20
        assert 0 < run["total"]["latency"]["p50"] <= run["total"]["latency"]["p99"]
    page = (folder / "load.html").read_text()
    assert "<svg" in page
    assert "lstm" in page
