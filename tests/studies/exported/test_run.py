"""The benchmark of exported files: it times them, judges the goals, and profiles models that miss theirs."""

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from hangtag.export.gate import speed
from hangtag.export.repository.inventory import Entry
from hangtag.serving.signature import Signature
from studies import results
from studies.exported import profile, report, run
from tests.kit.shipped import latest

pytestmark = pytest.mark.slow


def test_the_profile_names_every_node_and_adds_up() -> None:
    nodes = profile.by_node(latest("lstm"), batch_size=2)
    assert nodes[0].operator == "LSTM"
    assert sum(node.share for node in nodes) == pytest.approx(1)
    assert nodes == sorted(nodes, key=lambda node: -node.microseconds)


@pytest.mark.parametrize(("bound", "reached"), [(1e-6, True), (1e6, False)])
def test_a_goal_is_judged_and_a_missed_one_profiled(
    bound: float, reached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with itself as if it were another contender. The page shows what was written."""
    (tmp_path / "models/lstm").mkdir(parents=True)
    file = latest("lstm")
    (tmp_path / "models/lstm/1").symlink_to(file.parent.resolve())
    monkeypatch.setattr(run, "GOALS", {"lstm": (1, speed.FILE, bound)})
    monkeypatch.setattr(speed, "_MIN_ROUNDS", 3)
    monkeypatch.setattr(speed, "_MAX_ROUNDS", 3)
    out = tmp_path / "results.jsonl"
    arguments = ["--models", str(tmp_path / "models"), "--out", str(out)]
    result = CliRunner().invoke(run.main, [*arguments, "--timing", "eager", "--rounds", "2"])
    assert result.exit_code == 0, result.output
    line = results.read(out)["lstm"]
    assert line["reached"] is reached
    assert list(line["median_ms"]) == ["1", "64"]
    assert list(line["median_ms"]["1"]) == ["file", "PyTorch"]
    assert ("nodes" in line) is not reached
    assert ("MISSED" in result.output) is not reached
    shown = report.part(out)
    assert f"| `lstm` | {bound:g}x file at batch 1 | 1.00x | {'yes' if reached else 'no'} |" in shown
    assert ("Where the time of `lstm` goes" in shown) is not reached


def test_of_several_rounds_the_median_ratio_counts() -> None:
    rounds = [
        {speed.FILE: 1.0, speed.EAGER: 2.0},
        {speed.FILE: 4.0, speed.EAGER: 12.0},
        {speed.FILE: 2.0, speed.EAGER: 9.0},
    ]
    measured = run.middle([speed.Speed({64: times}, 1, {}, others=0.1 * number) for number, times in enumerate(rounds)])
    assert measured.milliseconds == {64: {speed.FILE: 2.0, speed.EAGER: 6.0}}  # the ratios are 2, 3 and 4.5
    assert measured.ratio(speed.EAGER, 64) == 3
    assert measured.others == 0.2


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.913, "reached, 0.20"), (0.912, "MISSED, 0.30")])
def test_lost_accuracy_is_judged_by_the_gates_own_figures(accuracy: float, verdict: str, tmp_path: Path) -> None:
    gate = {"agreement": {"accuracy": accuracy, "pytorch_accuracy": 0.915}}
    signature = Signature((), (), {"gate": json.dumps(gate)})
    console = Console(file=(output := io.StringIO()), width=200)
    lost = run._judge_accuracy(Entry("cnn-int8", 1, tmp_path / "model.onnx", signature), console)
    assert lost == {"may_lose": 0.002, "accuracy_lost": pytest.approx(0.915 - accuracy)}
    assert f"goal at most 0.2 points of accuracy lost: {verdict}" in output.getvalue()
