"""Name the processor's instructions that int8 is computed with, because speed and rounding depend on them."""

from pathlib import Path

INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX int8",
    "asimddp": "ARM dot products",
    "i8mm": "ARM int8 matrix products",
}
"""The names in /proc/cpuinfo, and those that their makers use."""


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The instructions of INSTRUCTIONS that this machine has; empty on systems without the file."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return [name for flag, name in INSTRUCTIONS.items() if flag in flags]
