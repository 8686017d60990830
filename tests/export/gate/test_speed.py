"""Timing a file beside PyTorch: contenders, missing ones, other load on the machine."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hangtag.export.gate import speed
from hangtag.export.network import checkpoint
from hangtag.training.data.fashion_mnist import Split
from tests.export.exported import Exported

pytestmark = pytest.mark.slow


def test_contenders_take_turns_on_the_same_threads(lstm: Exported, garments: Split) -> None:
    served = _served(lstm)
    before = torch.get_num_threads()
    measured = speed.measure(lstm.file, garments.images, served, lstm.file, "eager")
    assert measured is not None
    assert torch.get_num_threads() == before
    for times in measured.milliseconds.values():
        assert list(times) == ["file", "fp32 file", "PyTorch"]
        assert all(0 < value < 60_000 and math.isfinite(value) for value in times.values())
    assert list(measured.milliseconds) == [1, 64]
    assert measured.ratio("PyTorch", 1) == measured.milliseconds[1]["PyTorch"] / measured.milliseconds[1]["file"]
    assert measured.ratio("torch.compile", 1) is None


def test_what_a_contender_pays_for_the_others_turn_is_not_counted(
    garments: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first batch after another's, which finds their weights in the processor's caches, on a clock of the test."""
    last: list[str] = []
    seconds = [0.0]
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))

    def contender(name: str) -> speed.Contender:
        def answer(_: object) -> None:
            seconds[0] += 0.0011 if last[-1:] == [name] else 0.05
            last.append(name)

        return answer

    times = speed._interleaved({name: contender(name) for name in ("one", "other")}, garments.images)
    assert all(1 <= milliseconds < 25 for milliseconds in times.values())
    assert all(len(list(turn)) >= 2 for _, turn in itertools.groupby(last))


def test_torch_compile_is_timed_too(garments: Split, lstm: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that compiles quickly, at one batch size: each is compiled anew."""
    monkeypatch.setattr(speed, "BATCH_SIZES", (64,))
    measured = speed.measure(lstm.file, garments.images[:2], _Brightness(), None, "compile")
    assert measured is not None
    if "torch.compile" not in measured.missing:
        assert set(measured.milliseconds[64]) == {"file", "PyTorch", "torch.compile"}


def test_without_a_compiler_torch_compile_is_reported_missing(
    lstm: Exported, garments: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    measured = speed.measure(lstm.file, garments.images, _served(lstm), None, "compile")
    assert measured is not None
    assert measured.missing == {"torch.compile": "there is no C++ compiler"}
    assert set(measured.milliseconds[1]) == {"file", "PyTorch"}


def test_it_reports_the_cpu_share_of_other_processes(tmp_path: Path) -> None:
    """From Linux's counters, in hundredths of a second: user, nice, system, idle, iowait, irq, softirq, steal."""
    (tmp_path / "stat").write_text("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
    now = speed._CpuTime.now(tmp_path / "stat")
    assert (now.available, now.used) == (10, 2)
    assert speed._CpuTime(20, 9, 5).share_of_others(speed._CpuTime(10, 2, 1)) == pytest.approx(
        0.3
    )  # 7 s, of which 4 are ours
    assert speed._CpuTime.now(tmp_path / "none").share_of_others(speed._CpuTime.now(tmp_path / "none")) == 0
    measured = speed.Speed({1: {"file": 1.0}, 64: {"file": 9.0}}, 2, {}, 0.3)
    assert str(measured).endswith("2 threads; others took 30% of the CPUs meanwhile")
    assert "others" not in str(speed.Speed({1: {"file": 1.0}}, 2, {}, 0.09))
    assert measured.figures["others"] == 0.3


def test_the_timing_none_measures_nothing(lstm: Exported, garments: Split) -> None:
    assert speed.measure(lstm.file, garments.images, None, None, "none") is None


class _Brightness(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.to(torch.float32).mean(dim=(1, 2))


def _served(lstm: Exported) -> torch.nn.Module:
    return checkpoint.load(lstm.run)
