"""Describes the machine and the software versions of a load test, which a reader needs to judge or repeat it."""

import os
import platform
from importlib import metadata
from pathlib import Path


def describe() -> dict[str, str]:
    """This machine and the versions in use, as label to value."""
    return {
        "CPU": cpu_model(),
        "CPUs usable": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{name: _version(name) for name in ("hangtag", "grpcio", "numpy", "hdrhistogram")},
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name from Linux, or else from Python's platform module."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed as a distribution"
