"""Time batches in bare ONNX Runtime, on one thread. The figures are reported, never required.

The contenders take turns of several batches, so that other load on the machine affects all contenders. The figures are
medians. The first batch of a turn is not counted: it must reload weights that the other contenders have displaced from
the processor's caches, and can take twice as long as the next batches, which a busy server does not experience. Each
contender has one thread, like an instance of the server. With several threads, they would continue to spin after the
contender's turn, for about as long as a batch takes, on processors that the next contender needs.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hangtag.export.arrays import Array
from hangtag.serving.server.runtime.session import Runtime

BATCH_SIZES = (1, 64)
THREADS = 1
_LEAST_ROUNDS, _MOST_ROUNDS = 2, 200
_SECONDS = 0.25
"""No further round at one batch size begins after this time, within the two bounds above."""
_TURN_MS = 5.0
"""A turn ends when its counted batches together have taken this long."""

INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX int8",
    "asimddp": "ARM dot products",
    "i8mm": "ARM int8 matrix products",
}
"""Instructions on which the speed and rounding of int8 depend: name in /proc/cpuinfo -> the maker's name."""

FILE, FP32 = "file", "fp32 file"
Contender = Callable[[Any], object]
"""Answers a batch."""


@dataclass(frozen=True)
class Speed:
    """How long a batch takes, by batch size and contender."""

    milliseconds: Mapping[int, Mapping[str, float]]
    """Batch size -> contender -> median milliseconds."""

    def ratio(self, contender: str, batch_size: int) -> float | None:
        """How many times as fast the file is as a contender; None if the contender was not timed."""
        times = self.milliseconds[batch_size]
        return times[contender] / times[FILE] if contender in times else None

    @property
    def figures(self) -> dict[str, object]:
        """JSON values, for programs."""
        return {
            "threads": THREADS,
            "median_ms": {
                str(size): {contender: round(value, 4) for contender, value in times.items()}
                for size, times in self.milliseconds.items()
            },
        }

    def __str__(self) -> str:
        parts = []
        for size, times in self.milliseconds.items():
            others = [
                f"{self.ratio(contender, size):.1f} times as fast as the {contender}"
                for contender in times
                if contender != FILE
            ]
            compared = f" ({', '.join(others)})" if others else ""
            parts.append(f"batch {size} in {times[FILE]:.2f} ms{compared}")
        return f"{', '.join(parts)}, on {THREADS} thread"


def of_files(files: Mapping[str, Runtime], sample: Mapping[str, Array], *, batched: bool) -> Speed:
    """Time files on one sample, and, if the model is batched, on 64 samples.

    Args:
        files: Contender -> its file, loaded with one thread.
        sample: Input name -> array.
    """
    milliseconds = {}
    contenders: dict[str, Contender] = {name: runtime.run for name, runtime in files.items()}
    for size in BATCH_SIZES if batched else (1,):
        inputs = {name: np.concatenate([array] * size) for name, array in sample.items()} if size > 1 else sample
        milliseconds[size] = interleaved(contenders, inputs)
    return Speed(milliseconds)


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The instructions of INSTRUCTIONS that this machine has; empty if the system does not have ``cpuinfo``."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return [name for flag, name in INSTRUCTIONS.items() if flag in flags]


def interleaved(
    contenders: Mapping[str, Contender],
    batch: Any,
    clock: Callable[[], float] = time.perf_counter,
    least: int = _LEAST_ROUNDS,
    seconds: float = _SECONDS,
) -> dict[str, float]:
    """Let the contenders take turns; return the median milliseconds of each.

    Args:
        clock: Seconds since an arbitrary time.
        least: The least number of rounds, however long they take.
        seconds: After this time, or after _MOST_ROUNDS rounds, no round begins.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    begin = clock()
    for rounds in range(_MOST_ROUNDS):
        if rounds >= least and clock() - begin > seconds:
            break
        for name, answer in contenders.items():
            times[name] += _turn(answer, batch, clock)
    return {name: float(np.median(milliseconds)) for name, milliseconds in times.items()}


def _turn(answer: Contender, batch: Any, clock: Callable[[], float]) -> list[float]:
    """Return the milliseconds of each batch of a turn, without the first batch."""
    answer(batch)
    milliseconds: list[float] = []
    while sum(milliseconds) < _TURN_MS:
        start = clock()
        answer(batch)
        milliseconds.append((clock() - start) * 1e3)
    return milliseconds
