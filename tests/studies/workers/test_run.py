"""The measurements of several server processes: calls, memory, and memory that they could share."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
NEEDS_H2LOAD = pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load (Debian: nghttp2-client)")


@NEEDS_H2LOAD
def test_a_servers_memory_includes_that_of_its_workers(lstm_and_cnn: Path) -> None:
    command = [sys.executable, "-m", "studies", "workers", "run", "--models", str(lstm_and_cnn)]
    command += ["--rounds", "1", "--calls", "100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    one, two = (line.strip("| \n").split(" | ") for line in done.stdout.splitlines()[-2:])
    assert [row[0] for row in (one, two)] == ["1", "2"]
    assert all(float(rate.split()[0].replace(",", "")) > 0 for row in (one, two) for rate in row[1:3])
    megabytes = [float(row[3].removesuffix(" MB")) for row in (one, two)]
    assert megabytes[1] > 1.5 * megabytes[0]


def test_memory_that_processes_could_share_is_measured(lstm_and_cnn: Path) -> None:
    command = [sys.executable, "-m", "studies", "workers", "sharing", "--models", str(lstm_and_cnn)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [[int(cell.removesuffix(" MB")) for cell in line.split(" | ")[1:]] for line in _body(done.stdout)]
    nothing, served, mapped, unpacked = (sum(row) for row in rows)
    assert nothing < min(served, mapped, unpacked)
    assert rows[3][0] < rows[1][0]  # Mapped weights that are not packed are not anonymous.


def _body(table: str) -> list[str]:
    return [line.strip("| ") for line in table.splitlines()[2:]]
