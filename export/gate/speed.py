"""How long does a batch take in bare ONNX Runtime, beside PyTorch, both on one thread? Told with every model.

The contenders take turns, so that whatever else the machine does meets all of them; the figures are medians. One thread
is what an instance of the server computes on. With several, a contender's threads go on spinning after its turn, for as
long as a batch takes, on the processors that the next one needs.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hangtag.export.gate.runtime_answers import Pixels
from hangtag.serving.server.runtime.session import Runtime

BATCH_SIZES = (1, 64)
THREADS = 1
TIMINGS = ("none", "eager", "compile")
"""What a file is timed beside: nothing, PyTorch as it is, and torch.compile too, where there is a C++ compiler."""
_ROUNDS = (7, 200)
_SECONDS = 2.0
"""For all contenders at one batch size: rounds go on until then, within the bounds above."""
_BUSY = 0.1

FILE, FP32, EAGER, COMPILED = "file", "fp32 file", "PyTorch", "torch.compile"
Contender = Callable[[Pixels], object]


@dataclass(frozen=True)
class Speed:
    """Median milliseconds for a batch, by batch size and contender, and on how many threads.

    missing: why a contender is not among them. others: the share of the machine's CPUs that other processes took
    meanwhile; where it is large the figures, ratios included, say little.
    """

    milliseconds: Mapping[int, Mapping[str, float]]
    threads: int
    missing: Mapping[str, str]
    others: float = 0.0

    def ratio(self, contender: str, batch_size: int) -> float | None:
        """How many times faster the file is; None where the contender was not timed."""
        times = self.milliseconds[batch_size]
        return times[contender] / times[FILE] if contender in times else None

    @property
    def figures(self) -> dict[str, object]:
        """For a program, as JSON."""
        return {
            "threads": self.threads,
            "median_ms": {
                str(size): {contender: round(value, 4) for contender, value in times.items()}
                for size, times in self.milliseconds.items()
            },
            "missing": dict(self.missing),
            "others": round(self.others, 2),
        }

    def __str__(self) -> str:
        parts = []
        for size, times in self.milliseconds.items():
            beside = ", ".join(
                f"{self.ratio(contender, size):.1f}x {contender}" for contender in times if contender != FILE
            )
            parts.append(f"batch {size} in {times[FILE]:.2f} ms ({beside})" if beside else f"{times[FILE]:.2f} ms")
        busy = f"; others took {self.others:.0%} of the CPUs meanwhile" if self.others >= _BUSY else ""
        return f"{', '.join(parts)}, {self.threads} thread{'s' if self.threads > 1 else ''}{busy}"


def measure(path: Path, images: Pixels, served: nn.Module | None, fp32: Path | None, timing: str) -> Speed | None:
    """Time the file, the same network in FP32 where that is another file, and PyTorch; None for no timing at all.

    images: uint8 [n, height, width], repeated where they are fewer than a batch.
    """
    if timing == "none":
        return None
    contenders: dict[str, Contender] = {FILE: _session(path)}
    missing: dict[str, str] = {}
    if fp32 is not None:
        contenders[FP32] = _session(fp32)
    if served is not None:
        contenders[EAGER] = _network(served)
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        if served is not None and timing == "compile":
            try:
                contenders[COMPILED] = _compiled(served, images)
            except Exception as error:  # what a compiler raises is anybody's guess, and it is no failure of the file
                missing[COMPILED] = str(error).strip().splitlines()[0][:200]
        batches = {size: np.resize(images, (size, *images.shape[1:])) for size in BATCH_SIZES}
        before_it = _Work.now()
        milliseconds = {size: _interleaved(contenders, batch) for size, batch in batches.items()}
        return Speed(milliseconds, THREADS, missing, _Work.now().of_others(before_it))
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Work:
    """CPU seconds since some beginning: that all CPUs had, that all processes took, and that this one took."""

    there: float
    taken: float
    own: float

    @classmethod
    def now(cls, stat: Path = Path("/proc/stat")) -> "_Work":
        """Source: proc_stat(5), the line of all CPUs. Zeros where there is no such file, which is on other systems."""
        if not stat.exists():
            return cls(0, 0, 0)
        ticks = [int(field) for field in stat.read_text().partition("\n")[0].split()[1:9]]
        seconds = [count / os.sysconf("SC_CLK_TCK") for count in ticks]
        return cls(sum(seconds), sum(seconds) - sum(seconds[3:5]), time.process_time())  # 3, 4: idle, waiting for disks

    def of_others(self, before: "_Work") -> float:
        """The share of the CPUs that other processes took since then."""
        there = self.there - before.there
        others = (self.taken - before.taken) - (self.own - before.own)
        return min(1.0, max(0.0, others / there)) if there > 0 else 0.0


def _session(path: Path) -> Contender:
    runtime = Runtime(path, provider="cpu", threads=THREADS)
    (image,) = runtime.signature.inputs
    return lambda batch: runtime.run({image.name: batch})


def _network(network: nn.Module | Callable[..., object]) -> Contender:
    def answer(batch: Pixels) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(batch))

    return answer


def _compiled(served: nn.Module, images: Pixels) -> Contender:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise RuntimeError("there is no C++ compiler")
    answer = _network(torch.compile(served, dynamic=False))
    for size in BATCH_SIZES:
        answer(np.resize(images, (size, *images.shape[1:])))
    return answer


def _interleaved(contenders: Mapping[str, Contender], batch: Pixels) -> dict[str, float]:
    """Median milliseconds of each contender, which take turns."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for answer in contenders.values():
        answer(batch)  # the first call pays for allocations
    begun = time.perf_counter()
    for rounds in range(_ROUNDS[1]):
        if rounds >= _ROUNDS[0] and time.perf_counter() - begun > _SECONDS:
            break
        for name, answer in contenders.items():
            start = time.perf_counter()
            answer(batch)
            taken[name].append((time.perf_counter() - start) * 1e3)
    return {name: float(np.median(times)) for name, times in taken.items()}
