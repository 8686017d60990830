"""``hangtag export``: find the run, export and publish it, say what was proven."""

from pathlib import Path

import click

from export import exporter
from training import data
from training.options import runs_option
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
@runs_option
@click.option(
    "--precision", type=click.Choice(["fp32"]), default="fp32", show_default=True, help="Of the published model."
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST's IDX files.")
def export(run: str, models: Path, runs: Path, precision: str, data_dir: Path | None) -> None:
    """Export RUN to ONNX and publish it as the next version of its model.

    RUN is a run's folder, its name under --runs, or a model's name: then its latest finished run is taken. The file is
    compared with PyTorch in ONNX Runtime on real images; when it differs, nothing is published.

    \b
    Examples:
      hangtag export lstm                        the latest finished lstm run
      hangtag export runs/cnn-study-seed1        a certain run
    """
    found = Run.find(run, runs)
    click.echo(f"exporting {found.folder} in {precision}", err=True)
    published = exporter.export(found, models, data.load_test(data_dir))
    click.echo(f"published {published.folder}: {published.parity}")
