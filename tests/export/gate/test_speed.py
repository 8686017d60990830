"""Timing files and networks in turns, on a clock of the test; and how much of the machine others took meanwhile."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from hangtag.export.gate import speed
from tests.kit.exported import Exported

pytestmark = pytest.mark.slow


def test_what_a_contender_pays_for_the_others_turn_is_not_counted() -> None:
    """Its first batch after another's, which finds their weights in the processor's caches."""
    last: list[str] = []
    seconds = [0.0]

    def contender(name: str) -> speed.Contender:
        def answer(_: object) -> None:
            seconds[0] += 0.0011 if last[-1:] == [name] else 0.05
            last.append(name)

        return answer

    contenders = {name: contender(name) for name in ("one", "other")}
    times = speed.interleaved(contenders, np.zeros((1, 28, 28), np.uint8), clock=lambda: seconds[0])
    assert all(1 <= milliseconds < 25 for milliseconds in times.values())
    assert all(len(list(turn)) >= 2 for _, turn in itertools.groupby(last))


def test_torch_compile_is_timed_too(lstm: Exported) -> None:
    """With a network that compiles quickly; PyTorch's threads are as before."""
    before = torch.get_num_threads()
    measured = speed.measure(lstm.file, lstm.published.images[:2], _Brightness(), lstm.file, "compile")
    assert measured is not None
    assert torch.get_num_threads() == before
    contenders = {"file", "fp32 file", "PyTorch", "torch.compile"}
    for times in measured.milliseconds.values():
        assert set(times) | set(measured.missing) == contenders
        assert all(0 < value < 60_000 for value in times.values())
    assert measured.ratio("PyTorch", 1) == measured.milliseconds[1]["PyTorch"] / measured.milliseconds[1]["file"]


class _Brightness(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.to(torch.float32).mean(dim=(1, 2))


def test_the_share_of_other_processes_comes_from_linuxs_counters(tmp_path: Path) -> None:
    """In hundredths of a second: user, nice, system, idle, iowait, irq, softirq, steal."""
    (tmp_path / "stat").write_text("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
    now = speed.CpuTime.now(tmp_path / "stat")
    assert (now.available, now.used) == (10, 2)
    share = speed.CpuTime(20, 9, 5).share_of_others(speed.CpuTime(10, 2, 1))
    assert share == pytest.approx(0.3)  # 7 s, of which 4 are ours
    missing = speed.CpuTime.now(tmp_path / "none")
    assert missing.share_of_others(missing) == 0
    measured = speed.Speed({1: {"file": 1.0}, 64: {"file": 9.0}}, 2, {}, 0.3)
    assert str(measured).endswith("2 threads; others took 30% of the CPUs meanwhile")
    assert measured.figures["others"] == 0.3
    assert "others" not in str(speed.Speed({1: {"file": 1.0}}, 2, {}, 0.09))
