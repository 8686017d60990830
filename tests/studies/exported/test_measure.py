"""The benchmark of exports: it times what is there, judges the goals, and says where the time goes."""

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from hangtag.export.gate import speed
from hangtag.export.repository.inventory import Entry
from hangtag.serving.signature import Signature
from studies.exported import measure, profile, report
from tests.shipped import latest


def test_the_profile_names_every_node_and_adds_up() -> None:
    nodes = profile.by_node(latest("lstm"), batch_size=2)
    assert nodes[0].operator == "LSTM"
    assert sum(node.share for node in nodes) == pytest.approx(1)
    assert nodes == sorted(nodes, key=lambda node: -node.microseconds)


@pytest.mark.parametrize(("wanted", "reached"), [(1e-6, True), (1e6, False)])
def test_a_goal_is_judged_and_a_missed_one_profiled(
    wanted: float, reached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside itself, as if it were a faster file of the same network. The page can show what was written."""
    (tmp_path / "models/lstm").mkdir(parents=True)
    file = latest("lstm")
    (tmp_path / "models/lstm/1").symlink_to(file.parent.resolve())
    monkeypatch.setattr(measure, "GOALS", {"lstm": (1, speed.FILE, wanted)})
    monkeypatch.setattr(speed, "_ROUNDS", (3, 3))
    out = tmp_path / "results.json"
    arguments = ["--models", str(tmp_path / "models"), "--out", str(out)]
    result = CliRunner().invoke(measure.main, [*arguments, "--timing", "eager"])
    assert result.exit_code == 0, result.output
    results = json.loads(out.read_text())
    told = results["models"]["lstm"]
    assert told["reached"] is reached
    assert list(told["median_ms"]) == ["1", "64"]
    assert list(told["median_ms"]["1"]) == ["file", "PyTorch"]
    assert ("nodes" in told) is not reached
    assert ("MISSED" in result.output) is not reached
    shown = report.markdown(results)
    assert f"| `lstm` | {wanted:g}x file at batch 1 | 1.00x | {'yes' if reached else 'no'} |" in shown
    assert ("Where the time of `lstm` goes" in shown) is not reached


@pytest.mark.parametrize(("accuracy", "said"), [(0.913, "reached, 0.20"), (0.912, "MISSED, 0.30")])
def test_lost_accuracy_is_judged_by_the_gates_own_figures(accuracy: float, said: str, tmp_path: Path) -> None:
    gate = {"agreement": {"accuracy": accuracy, "pytorch_accuracy": 0.915}}
    signature = Signature((), (), {"gate": json.dumps(gate)})
    console = Console(file=(told := io.StringIO()), width=200)
    lost = measure._judge_accuracy(Entry("cnn-int8", 1, tmp_path / "model.onnx", signature), console)
    assert lost == {"may_lose": 0.002, "accuracy_lost": pytest.approx(0.915 - accuracy)}
    assert f"goal at most 0.2 points of accuracy lost: {said}" in told.getvalue()
