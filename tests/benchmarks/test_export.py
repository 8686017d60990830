"""The benchmark of exports: it times what is there, judges the goals, and says where the time goes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.export import measure, profile
from export.gate import speed
from tests.export.conftest import newest


def test_the_profile_names_every_node_and_adds_up() -> None:
    nodes = profile.by_node(newest(Path("models"), "lstm"), batch_size=2)
    assert nodes[0].operator == "LSTM"
    assert sum(node.share for node in nodes) == pytest.approx(1)
    assert nodes == sorted(nodes, key=lambda node: -node.microseconds)


@pytest.mark.parametrize(("wanted", "reached"), [(1e-6, True), (1e6, False)])
def test_a_goal_is_judged_and_a_missed_one_profiled(
    wanted: float, reached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside itself, as if it were a faster file of the same network."""
    (tmp_path / "models/lstm").mkdir(parents=True)
    file = newest(Path("models"), "lstm")
    (tmp_path / "models/lstm/1").symlink_to(file.parent.resolve())
    monkeypatch.setattr(measure, "GOALS", {"lstm": (1, speed.FILE, wanted)})
    monkeypatch.setattr(speed, "_ROUNDS", (3, 3))
    out = tmp_path / "results.json"
    arguments = ["--models", str(tmp_path / "models"), "--runs", str(tmp_path / "none"), "--out", str(out)]
    result = CliRunner().invoke(measure.main, [*arguments, "--timing", "eager"])
    assert result.exit_code == 0, result.output
    told = json.loads(out.read_text())["models"]["lstm"]
    assert told["reached"] is reached
    assert list(told["median_ms"]) == ["1", "64"]
    assert ("nodes" in told) is not reached
    assert ("MISSED" in result.output) is not reached
