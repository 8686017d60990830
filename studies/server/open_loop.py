"""Puts an open loop on a server with `hangtag loadtest`, which counts latency from the planned time.

h2load does not fit: its timer accumulates delays, so that calls are sent ever later than planned, and it counts a
refused call as a success, because the HTTP status is 200.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

_CONNECTIONS = 16


def run(
    address: str, model: str, rate: float, seconds: float, *, deadline: float = 10.0, seed: int = 0
) -> dict[str, Any]:
    """Send calls with Poisson arrivals, and return `total` of the run in the load test's JSON.

    Args:
        rate: Calls a second.
        seconds: The minimum duration.
        deadline: Of each call, in seconds.

    Raises:
        click.ClickException: the load test wrote no results.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "results.json")
        command = [sys.executable, "-m", "hangtag", "loadtest", model, "--server", address, "--json", str(out)]
        command += ["--rate", f"{rate:.1f}", "--deadline", f"{deadline}s", "--seed", str(seed), "--blocks", "1"]
        command += ["--min-duration", f"{seconds}s", "--channels", str(_CONNECTIONS), "--processes", "1"]
        finished = subprocess.run(command, capture_output=True, text=True)  # status 1: calls were refused
        if not out.exists():
            raise click.ClickException(f"the load test wrote no results:\n{finished.stdout}{finished.stderr}")
        total: dict[str, Any] = json.loads(out.read_text())["runs"][0]["total"]
        return total
