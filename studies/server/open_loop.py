"""Open loops from `hangtag loadtest`, which counts latency from the planned time and knows each call's status.

h2load's own timer adds up its delays, so that calls come ever later than planned; and a refused call is a 200 to it.
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
    """Poisson arrivals at so many calls a second, for so long; ``total`` of the run in the load test's JSON.

    deadline: of each call, in seconds. Raises click.ClickException when the load test wrote no results.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "results.json")
        command = [sys.executable, "-m", "hangtag", "loadtest", model, "--server", address, "--json", str(out)]
        command += ["--rate", f"{rate:.1f}", "--deadline", f"{deadline}s", "--seed", str(seed), "--blocks", "1"]
        command += ["--min-duration", f"{seconds}s", "--channels", str(_CONNECTIONS), "--processes", "1"]
        done = subprocess.run(command, capture_output=True, text=True)  # ends with 1 where calls were refused
        if not out.exists():
            raise click.ClickException(f"the load test wrote no results:\n{done.stdout}{done.stderr}")
        total: dict[str, Any] = json.loads(out.read_text())["runs"][0]["total"]
        return total
