"""``hangtag export``: find what is to be published, take it through the gate, say what was proven."""

from pathlib import Path

import click

from export import exporter
from export.gate.speed import TIMINGS
from export.precision import PRECISIONS
from training import data
from training.run import Run


@click.command()
@click.argument("run")
@click.option(
    "--models",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("models"),
    show_default=True,
    help="The model repository to publish into.",
)
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Where RUN is looked for when it is a name.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="fp16 is for GPUs, int8 for CPUs; each is a model of its own, such as cnn-int8.",
)
@click.option(
    "--timing",
    type=click.Choice(TIMINGS),
    default="compile",
    show_default=True,
    help="What the file is timed beside: PyTorch as it is, torch.compile as well, or nothing.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST's IDX files.")
def export(run: str, models: Path, runs: Path, precision: str, timing: str, data_dir: Path | None) -> None:
    """Export RUN to ONNX, prove that it answers as PyTorch does, and publish it as the next version of its model.

    RUN is a run's folder, its name under --runs, or a model's name: then its latest finished run is taken. The file
    goes through a gate: batches of 1 to 64, the whole test set, each image alone and in company. When a check fails,
    the worst image is named and nothing is published. What was proven is written into the file.

    \b
    Examples:
      hangtag export lstm                        the latest finished lstm run
      hangtag export runs/cnn-study-seed1        a certain run
      hangtag export cnn --precision int8        publishes cnn-int8
    """
    found = Run.find(run, runs)
    click.echo(f"exporting {found.folder} in {precision}", err=True)
    calibration = data.load(data_dir).train.images if precision == "int8" else None
    published = exporter.export(
        found, models, data.load_test(data_dir), to=precision, calibration=calibration, timing=timing
    )
    click.echo(f"published {published.folder}")
    for check in published.proof.checks:
        click.echo(f"  {check.name:<12} {check.said}")
    if published.proof.speed is not None:
        click.echo(f"  {'speed':<12} {published.proof.speed}")
