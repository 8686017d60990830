"""Measures how much of their models' memory several processes could share, for each way to store the weights.

Each way is measured in a process of its own. Anonymous memory belongs to one process; memory of a file is shared by all
processes that map the file. Needs the extra train, for onnx.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np

from hangtag.serving.model_repository import serving_versions
from hangtag.serving.server.host import memory
from hangtag.serving.server.runtime import providers
from hangtag.serving.server.runtime.inference_session import VERSION as ONNXRUNTIME_VERSION
from studies import options, page, results
from studies.workers.report import RESULTS, SHARING, WAYS, sharing_rows


@click.command()
@options.MODELS
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The results file.")
def main(models: Path, out: Path) -> None:
    """Measure the memory that processes could share, for docs/performance.md. Nothing is timed."""
    megabytes: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for way in WAYS:
            folder = _with_side_files(models, Path(name) / way) if "mapped" in way else models
            command = [sys.executable, "-m", "studies.workers.sharing", way, str(folder)]
            finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            anonymous, files = map(float, finished.stdout.split())
            megabytes[way] = {"anonymous": anonymous, "files": files}
    conditions = results.conditions("python -m studies workers sharing", {"onnxruntime": ONNXRUNTIME_VERSION})
    line = conditions | {"run": SHARING, "megabytes": megabytes}
    results.record(out, line)
    rows = sharing_rows(line)
    click.echo(page.table(rows[0], rows[1:]))
    click.echo(f"wrote {out}", err=True)


def _with_side_files(models: Path, folder: Path) -> Path:
    """A repository with the same models, whose weights are in a file next to model.onnx."""
    import onnx

    for file in serving_versions(models):
        path = folder / file.name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(onnx.load(file.path), path, save_as_external_data=True, location="weights")
    return folder


def _measure(way: str, models: Path) -> None:
    """Load every model as the server does, compute the smallest and the largest batch, and print the memory in MB."""
    import onnxruntime

    from hangtag.serving.server.runtime.arena import share_one_arena

    share_one_arena()
    sessions = []
    for file in [] if way == "no models" else serving_versions(models):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.use_env_allocators", "1")
        if way.endswith("as they are"):
            options.add_session_config_entry("session.disable_prepacking", "1")
        session = onnxruntime.InferenceSession(file.path, options, providers=[providers.CPU])
        for samples in (1, 64):
            session.run(None, {"image": np.zeros((samples, 28, 28), np.uint8)})
        sessions.append(session)
    memory.release_loading_memory()
    rollup = Path("/proc/self/smaps_rollup").read_text()
    resident, anonymous = (
        int(re.findall(rf"^{name}:\s+(\d+) kB", rollup, re.MULTILINE)[0]) for name in ("Rss", "Anonymous")
    )
    click.echo(f"{anonymous / 1024} {(resident - anonymous) / 1024}")


if __name__ == "__main__":
    _measure(sys.argv[1], Path(sys.argv[2]))
