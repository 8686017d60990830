"""What several processes could share of their models' memory: each way to keep the weights, in a process of its own.

    python -m studies.server.sharing

Memory that is anonymous is a process' own; what is a file's is shared with all that map the same file. Needs the extra
train, for onnx.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np

from hangtag.serving.model_repository import latest_versions
from hangtag.serving.server.host import memory
from hangtag.serving.server.runtime import providers

WAYS = {
    "no models": "nothing is loaded",
    "as served": "weights in the model's file",
    "mapped": "weights in a file beside it, which ONNX Runtime maps",
    "mapped, as they are": "the same, and the weights are not packed anew for the processor",
}


@click.command()
@click.option("--models", type=click.Path(exists=True, path_type=Path), default=Path("models"), show_default=True)
def main(models: Path) -> None:
    """Print a table in Markdown."""
    click.echo("| weights | anonymous | of files |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        for way, told in WAYS.items():
            folder = _with_side_files(models, Path(name) / way) if "mapped" in way else models
            command = [sys.executable, "-m", "studies.server.sharing", "measure", way, str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            anonymous, files = done.stdout.split()
            click.echo(f"| {told} | {anonymous} MB | {files} MB |")


def _with_side_files(models: Path, folder: Path) -> Path:
    import onnx

    for file in latest_versions(models):
        path = folder / file.name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(onnx.load(file.path), path, save_as_external_data=True, location="weights")
    return folder


def _measure(way: str, models: Path) -> None:
    """Load every model as the server does, compute the smallest and the largest batch, and print what it took."""
    import onnxruntime

    from hangtag.serving.server.runtime.inference_session import share_one_arena

    share_one_arena()
    sessions = []
    for file in [] if way == "no models" else latest_versions(models):
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
    click.echo(f"{anonymous / 1024:.0f} {(resident - anonymous) / 1024:.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        _measure(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
