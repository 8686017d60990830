"""Checks that the committed message stubs match the .proto files. If not, the output names the command that writes
them.

Run this module in the root of the repository: ``python -m tests.protos.generated_stubs hangtag/protos/NAME.proto ...``.
The exit code is 1 if a stub differs or is missing.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

SUFFIXES = ("_pb2.py", "_pb2.pyi")


def differing(protos: list[str]) -> list[str]:
    """Return the stubs that differ from those that ``make proto`` would write.

    Raises:
        subprocess.CalledProcessError: protoc failed, for example on a syntax error in a .proto file.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc", "-I."),
                *(f"--{output}={folder}" for output in ("python_out", "pyi_out")),
                *protos,
            ],
            check=True,
        )
        stubs = [proto.removesuffix(".proto") + suffix for proto in protos for suffix in SUFFIXES]
        return [stub for stub in stubs if _read(Path(stub)) != _read(Path(folder) / stub)]


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def main(protos: list[str]) -> int:
    if not protos:
        sys.stderr.write("usage: python -m tests.protos.generated_stubs hangtag/protos/NAME.proto ...\n")
        return 2
    different = differing(protos)
    for stub in different:
        sys.stderr.write(f"{stub} is not what its .proto file generates\n")
    if different:
        sys.stderr.write("Run 'make proto' and commit the result.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
