"""Time a batch in bare ONNX Runtime and in PyTorch, both on one thread. The figures are reported, never required.

The contenders take turns of several batches, so that other load on the machine affects all of them; the figures are
medians. The first batch of a turn is not counted: it reads weights that the other contenders have displaced from the
processor's caches, and can take twice as long as the next ones, which is not what a server with work pays. One thread,
since an instance of the server computes on one. With several, a contender's threads would spin on after its turn, for
about as long as a batch takes, on the processors that the next contender needs.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hangtag.export.arrays import Array, Pixels
from hangtag.serving.server.runtime.session import Runtime

if TYPE_CHECKING:  # only files are timed where torch is not installed
    from torch import nn

BATCH_SIZES = (1, 64)
THREADS = 1
TIMINGS = ("none", "eager", "compile")
"""What to compare a file's speed with: nothing; PyTorch in eager mode; torch.compile too, with a C++ compiler."""
_MIN_ROUNDS, _MAX_ROUNDS = 7, 200
_SECONDS = 2.0
"""Rounds at one batch size end after this time, within the two bounds above."""
_SECONDS_OF_FILES = 0.25
"""As ``_SECONDS``, for somebody else's file, which is compared with nothing or with one other."""
_TURN_MS = 5.0
"""A turn's counted batches take this long together, or there is one of them."""

INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX int8",
    "asimddp": "ARM dot products",
    "i8mm": "ARM int8 matrix products",
}
"""Instructions that int8 is computed with, by which speed and rounding depend on the processor: their names in
/proc/cpuinfo, and those that their makers use."""

FILE, FP32, EAGER, COMPILED = "file", "fp32 file", "PyTorch", "torch.compile"
Contender = Callable[[Any], object]
"""Answers a batch."""


@dataclass(frozen=True)
class Speed:
    """How long a batch takes, by batch size and contender."""

    milliseconds: Mapping[int, Mapping[str, float]]
    """Batch size -> contender -> median."""
    missing: Mapping[str, str]
    """Contender -> why it was not timed."""

    def ratio(self, contender: str, batch_size: int) -> float | None:
        """How many times faster the file is than a contender; None for a contender that was not timed."""
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
            "missing": dict(self.missing),
        }

    def __str__(self) -> str:
        parts = []
        for size, times in self.milliseconds.items():
            ratios = ", ".join(
                f"{self.ratio(contender, size):.1f}x {contender}" for contender in times if contender != FILE
            )
            parts.append(f"batch {size} in {times[FILE]:.2f} ms ({ratios})" if ratios else f"{times[FILE]:.2f} ms")
        return f"{', '.join(parts)}, {THREADS} thread"


def measure(path: Path, images: Pixels, served: "nn.Module | None", fp32: Path | None, timing: str) -> Speed | None:
    """Time the file and its contenders.

    Args:
        images: what to run; they are repeated if they are fewer than a batch.
        served: the network in PyTorch; None to leave PyTorch out.
        fp32: the file of the same network in FP32, if that is another file.
        timing: one of TIMINGS; for "none" nothing is timed and None returned.
    """
    if timing == "none":
        return None
    contenders: dict[str, Contender] = {FILE: _session(path)}
    missing: dict[str, str] = {}
    if fp32 is not None:
        contenders[FP32] = _session(fp32)
    with _pytorch_threads() if served is not None else nullcontext():
        if served is not None:
            contenders[EAGER] = _network(served)
            if timing == "compile":
                try:
                    contenders[COMPILED] = _compiled(served, images)
                except Exception as error:  # a compiler may raise anything, and the file is not at fault
                    missing[COMPILED] = str(error).strip().splitlines()[0][:200]
        batches = {size: np.resize(images, (size, *images.shape[1:])) for size in BATCH_SIZES}
        return Speed({size: interleaved(contenders, batch) for size, batch in batches.items()}, missing)


def of_files(files: Mapping[str, Runtime], sample: Mapping[str, Array], *, batched: bool) -> Speed:
    """Time files on one sample, and on 64 of a batched model.

    Args:
        files: Contender -> the file, with one thread.
        sample: Input name -> array.
    """
    milliseconds = {}
    contenders: dict[str, Contender] = {name: runtime.run for name, runtime in files.items()}
    for size in BATCH_SIZES if batched else (1,):
        inputs = {name: np.concatenate([array] * size) for name, array in sample.items()} if size > 1 else sample
        milliseconds[size] = interleaved(contenders, inputs, least=2, seconds=_SECONDS_OF_FILES)
    return Speed(milliseconds, {})


@contextmanager
def _pytorch_threads() -> Iterator[None]:
    """Let PyTorch compute on THREADS inside the context."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The instructions of INSTRUCTIONS that this machine has; empty on systems without the file."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return [name for flag, name in INSTRUCTIONS.items() if flag in flags]


def _session(path: Path) -> Contender:
    runtime = Runtime(path, provider="cpu", threads=THREADS)
    (image,) = runtime.signature.inputs
    return lambda batch: runtime.run({image.name: batch})


def _network(network: "nn.Module | Callable[..., object]") -> Contender:
    import torch

    def answer(batch: Pixels) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(batch))

    return answer


def _compiled(served: "nn.Module", images: Pixels) -> Contender:
    import torch

    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise RuntimeError("there is no C++ compiler")
    answer = _network(torch.compile(served, dynamic=False))
    for size in BATCH_SIZES:
        answer(np.resize(images, (size, *images.shape[1:])))
    return answer


def interleaved(
    contenders: Mapping[str, Contender],
    batch: Any,
    clock: Callable[[], float] = time.perf_counter,
    least: int = _MIN_ROUNDS,
    seconds: float = _SECONDS,
) -> dict[str, float]:
    """Let the contenders take turns; return the median milliseconds of each.

    Args:
        clock: Seconds since any moment.
        least: So many rounds are played whatever they take.
        seconds: No round begins later, and none after _MAX_ROUNDS.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    begin = clock()
    for rounds in range(_MAX_ROUNDS):
        if rounds >= least and clock() - begin > seconds:
            break
        for name, answer in contenders.items():
            times[name] += _turn(answer, batch, clock)
    return {name: float(np.median(milliseconds)) for name, milliseconds in times.items()}


def _turn(answer: Contender, batch: Any, clock: Callable[[], float]) -> list[float]:
    """Milliseconds of each batch of a turn, without the first."""
    answer(batch)
    milliseconds: list[float] = []
    while sum(milliseconds) < _TURN_MS:
        start = clock()
        answer(batch)
        milliseconds.append((clock() - start) * 1e3)
    return milliseconds
