"""The command on saved results: `loadtest compare`, and --baseline."""

import html
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from tests.serving.loadtest.cli.test_command import QUICK, invoke
from tests.serving.loadtest.fake_server import FakeServer

pytestmark = pytest.mark.slow


def saved(server: FakeServer, file: Path, *more: str) -> Path:
    invoke("fast", "--server", server.address, "--concurrency", "2", *QUICK, "--json", str(file), *more)
    return file


def test_saved_runs_are_compared(server: FakeServer, tmp_path: Path) -> None:
    # So slow that the generator is never the bottleneck, and long enough for its CPU time to be meaningful.
    lasting = ("--blocks", "10", "--min-duration", "1s")
    server.behaviour = lambda number, context: (threading.Event().wait(0.01), None)[1]
    before = saved(server, tmp_path / "before.json", *lasting)
    server.behaviour = lambda number, context: (threading.Event().wait(0.1), None)[1]
    after = saved(server, tmp_path / "after.json", *lasting)
    page, comparison = tmp_path / "comparison.html", tmp_path / "comparison.json"
    result = invoke("compare", str(before), str(after), "--html", str(page), "--json", str(comparison))
    assert result.exit_code == 0, result.output
    assert re.search(r"after / before +0\.\d+\u00d7", result.stdout)
    written = json.loads(comparison.read_text())
    assert written["schema"] == "hangtag.loadtest.comparison/1"
    assert written["comparisons"][0]["throughput"]["ratio"] < 0.5
    assert written["before"]["file"] == str(before)
    assert written["comparisons"][0]["sentence"] in html.unescape(page.read_text())
    text = " ".join(result.stdout.split())
    # One pause of a busy machine moves a p99 by more than 20 ms, so only the throughput is sure to differ.
    assert "fast's p99 at 2 in flight " in text
    assert re.search(r"its throughput is 0\.\d+ times what it was \(95 %: 0\.\d+ to 0\.\d+\)\.", text)
    assert "WARNING" not in text
    assert text.startswith("The same models, samples, options and environment. ")
    assert written["setting_differences"] == {}

    document = json.loads(before.read_text())
    document["environment"]["CPU"] = "another processor"
    before.write_text(json.dumps(document))
    text = " ".join(invoke("compare", str(before), str(after), "--html", str(page)).stdout.split())
    assert "another processor" in page.read_text()
    assert text.startswith("WARNING different machines. CPU: another processor and ")


def test_what_was_measured_otherwise_is_listed(server: FakeServer, tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", image=np.zeros((20, 28, 28), np.uint8), labels=np.arange(20) % 10)
    before = saved(server, tmp_path / "before.json")

    def version_2(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="2")
        scores = np.tile(np.eye(10, dtype=np.float32)[0], (request.inputs[0].shape[0], 1))
        response.outputs.add(name="probabilities", datatype="FP32", shape=scores.shape)
        response.raw_output_contents.append(scores.tobytes())
        return response

    server.answer = version_2
    server.config = pb.ModelConfig(max_batch_size=64, instance_group=[pb.ModelInstanceGroup(count=2)])
    more = ("--samples", str(tmp_path / "samples.npz"), "--accuracy", "--channels", "2")
    after = saved(server, tmp_path / "after.json", *more)
    page, comparison = tmp_path / "comparison.html", tmp_path / "comparison.json"
    result = invoke("compare", str(before), str(after), "--html", str(page), "--json", str(comparison))
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "differs fast's model version: 1 before, 2 after" in text
    assert "differs fast's accuracy: not measured before, 10.00% of 20 after" in text
    assert "differs --channels: 1 before, 2 after" in text
    assert "The same models" not in text
    written = json.loads(comparison.read_text())["setting_differences"]
    properties = {f"fast's {name}" for name in ("model version", "samples", "accuracy", "threads")}
    assert written.keys() == {"--channels"} | properties
    assert written["fast's threads"] == {"before": "not recorded", "after": "2 instances"}
    assert str(tmp_path / "samples.npz") in written["fast's samples"]["after"]
    shown = html.unescape(page.read_text())
    assert all(label in shown for label in written)


def test_saved_runs_with_nothing_in_common_are_not_compared(server: FakeServer, tmp_path: Path) -> None:
    before = saved(server, tmp_path / "before.json")
    document = json.loads(before.read_text())
    document["runs"] = []
    (tmp_path / "after.json").write_text(json.dumps(document))
    result = invoke("compare", str(before), str(tmp_path / "after.json"))
    assert result.exit_code == 1
    assert "have no target and load in common" in " ".join(result.stderr.split())
    assert "cannot be read" in invoke("compare", str(before), str(tmp_path / "missing.json")).stderr


def test_gates_decide_the_exit_code(server: FakeServer, tmp_path: Path) -> None:
    baseline = saved(server, tmp_path / "baseline.json")
    base = ("fast", "--server", server.address, "--concurrency", "2", *QUICK, "--baseline", str(baseline))
    passed = invoke(*base, "--fail-if", "fast.throughput < 0.0001 * baseline", "--junit", str(tmp_path / "a.xml"))
    assert passed.exit_code == 0, passed.output
    assert "passed not fast.throughput < 0.0001 * baseline" in passed.stdout
    assert "WARNING" not in passed.stderr
    failed = invoke(*base, "--fail-if", "fast.p99 > 1us", "--prometheus", str(tmp_path / "a.prom"))
    assert failed.exit_code == 1
    assert "FAILED fast.p99 > 1us: fast's p99 at 2 in flight is" in " ".join(failed.stdout.split())
    assert 'failures="0"' in (tmp_path / "a.xml").read_text()
    assert "hangtag_loadtest_success 0.0" in (tmp_path / "a.prom").read_text()

    baseline.write_text(baseline.read_text().replace('"CPU": "', '"CPU": "not '))
    elsewhere = invoke(*base, "--fail-if", "fast.throughput < 0.0001 * baseline")
    assert "WARNING different machines. CPU: not " in " ".join(elsewhere.stderr.split())
