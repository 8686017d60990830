"""Train a network on scikit-learn's handwritten digits in a folder of PNG files, with the command that a user runs."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from PIL import Image

from hangtag.training.runs.run import Run
from studies import results

RESULTS = Path(__file__).with_name("digits.jsonl")
LEAST = 0.97
"""The least share of held-out pictures that the network must classify correctly."""
_DIGITS = "lib/python3*/site-packages/sklearn/datasets/data/digits.csv.gz"
_OPTIONS = ("--test-share", "0.2", "--epochs", "4")


@click.command()
@click.option(
    "--others",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(".venv-others"),
    show_default=True,
    help="The environment that has scikit-learn.",
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="the study's")
def main(others: Path, out: Path) -> None:
    """Train cnn on 1,797 digits of 8x8 grey pixels, and require 97 % accuracy on the held-out pictures."""
    file = next(others.glob(_DIGITS), None)
    if file is None:
        raise click.ClickException(f"{others} has no scikit-learn: run 'make others'.")
    rows = np.loadtxt(file, delimiter=",", dtype=np.int64)  # 64 pixels from 0 to 16, and the digit
    conditions = results.conditions(results.versions(("torch", "pillow", "numpy")))
    with TemporaryDirectory() as folder:
        for number, (*pixels, digit) in enumerate(rows.tolist()):
            picture = Path(folder, "digits", str(digit), f"{number:04}.png")
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((np.array(pixels).reshape(8, 8) * 255 // 16).astype(np.uint8)).save(picture)
        command = ("train", "cnn", "--data", "folder:digits", *_OPTIONS, "--out", "run")
        subprocess.run([sys.executable, "-m", "hangtag", *command], cwd=folder, check=True)
        accuracy = Run(Path(folder, "run")).metrics["summary"]["test"]["accuracy"]
    trained_with = " ".join(("hangtag", *command))
    results.write(out, [conditions, {"run": "digits", "trained_with": trained_with, "accuracy": accuracy}])
    if accuracy < LEAST:
        raise click.ClickException(f"only {accuracy:.2%} of the held-out pictures are classified correctly.")
