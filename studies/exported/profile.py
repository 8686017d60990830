"""Shows where a batch's time goes, node by node, with ONNX Runtime's own profiler."""

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import onnxruntime

ROUNDS = 50


@dataclass(frozen=True)
class Node:
    """A node of the graph after fusion: its median microseconds in a batch, and its share of the time of all nodes."""

    name: str
    operator: str
    microseconds: float
    share: float


def prepared(
    path: Path, batch_size: int, options: onnxruntime.SessionOptions
) -> tuple[onnxruntime.InferenceSession, dict[str, npt.NDArray[np.uint8]]]:
    """A session for a file with one input, UINT8 [batch, height, width], and a batch of random pixels for it."""
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, *image.shape[1:]), dtype=np.uint8)
    return session, {image.name: pixels}


def by_node(path: Path, batch_size: int, threads: int = 1) -> list[Node]:
    """The nodes of a graph, slowest first.

    Args:
        path: An ONNX file with one input, UINT8 [batch, height, width].
        batch_size: Images in each of ROUNDS batches of random pixels.
        threads: CPU threads for each node.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, "profile"))
        session, batch = prepared(path, batch_size, options)
        for _ in range(ROUNDS):
            session.run(None, batch)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]].append(event["dur"])
    medians = {node: float(np.median(values)) for node, values in times.items()}
    total = sum(medians.values())
    return sorted(
        (Node(name, operator, median, median / total) for (name, operator), median in medians.items()),
        key=lambda node: -node.microseconds,
    )


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def main(file: Path, batch_size: int, threads: int) -> None:
    """Print each node's median time in a batch."""
    for node in by_node(file, batch_size, threads):
        click.echo(f"{node.share:6.1%}  {node.microseconds:9.1f} µs  {node.operator:<24} {node.name}")
