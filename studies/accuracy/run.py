"""Train the study's networks, the teachers and their students, and record each run's figures."""

import fnmatch
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from hangtag.training.runs.run import Run
from studies import results
from studies.hangtag_command import hangtag

RESULTS = Path(__file__).with_name("results.jsonl")
TEACHER_FILES = Path("studies/accuracy/teachers")
RUNS = Path("runs")
TEACHERS = RUNS / "teachers"
"""The repository where recipes look for their teachers."""
SEEDS = (0, 1, 2)
NETWORKS = ("lstm", "lstm2", "cnn")
"""The networks of the published study."""


@dataclass(frozen=True)
class TrainingRun:
    """One training run.

    Args:
        name: The run's folder under runs/, and its name in the results file.
        arguments: The arguments of `hangtag train`, beginning with the network.
        group: The part of the page that shows the run.
        published: The version of TEACHERS to export the run as, with the options of `hangtag export`; None: do not
            export.
    """

    name: str
    arguments: tuple[str, ...]
    group: str
    published: tuple[Path, tuple[str, ...]] | None = None


def _study(model: str, seed: int) -> TrainingRun:
    precision = "bf16" if model == "cnn" else "fp32"
    arguments = (model, "--seed", str(seed), "--precision", precision)
    return TrainingRun(f"{model}-study-seed{seed}", arguments, "study")


def _bf16(seed: int) -> TrainingRun:
    return TrainingRun(f"lstm-bf16-seed{seed}", ("lstm", "--seed", str(seed), "--precision", "bf16"), "bf16")


def _teacher(model: str, seed: int, *, int8: bool = False) -> TrainingRun:
    options = ("--precision", "int8") if int8 else ()
    version = TEACHERS / (f"{model}-int8" if int8 else model) / str(seed + 1)
    arguments = (model, "--seed", str(seed), "--precision", "bf16")
    return TrainingRun(f"{model}-teacher-seed{seed}", arguments, "teacher", (version, options))


def _best(model: str) -> TrainingRun:
    return TrainingRun(f"{model}-best-seed0", (model, "--recipe", "best", "--precision", "bf16"), "best")


def _same_view(model: str) -> TrainingRun:
    """A run with teachers in the repository: from resnet-28x28-teacher-seed0 and 1, and cnn-best-seed0 in INT8."""
    versions = ("resnet-28x28-int8/1", "resnet-28x28-int8/2", "cnn-int8/1")
    teachers = (f"--teacher={TEACHER_FILES / version / 'model.onnx'}" for version in versions)
    arguments = (model, "--recipe", "same-view", "--precision", "bf16", *teachers)
    return TrainingRun(f"{model}-same-view-seed0", arguments, "same-view")


# The results file also has runs that nothing trains again: the group "before-muon" has runs of earlier versions of the
# recipes; "same-view-ended-early" has a run that was ended after 36 of its 90 epochs.
TRAINING_RUNS = (
    *(_study(model, seed) for model in ("lstm", "lstm-56", "lstm-280") for seed in SEEDS),
    _study("lstm2", 0),  # An hour and a half for a run: one seed.
    *(_study("cnn", seed) for seed in SEEDS),
    *map(_bf16, SEEDS),
    *(_teacher("resnet", seed) for seed in SEEDS),
    *(_teacher("resnet-28x28", seed, int8=True) for seed in (0, 1)),
    *map(_best, NETWORKS),
    *map(_same_view, ("cnn", "cnn-small")),
)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--only", default="*", show_default=True, help="Runs whose names fit this pattern, as lstm-*-seed0.")
@click.option("--dry-run", is_flag=True, help="Print the commands and run none.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The results file to write lines into.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- TRAIN_OPTIONS]")
def main(only: str, dry_run: bool, out: Path, options: tuple[str, ...]) -> None:
    """Train the study's networks, their teachers, and the networks by the recipes that learn from teachers.

    A finished run costs nothing, and a stopped run continues. TRAIN_OPTIONS are options of hangtag train, such as --
    --threads 2.
    """
    chosen = [run for run in TRAINING_RUNS if fnmatch.fnmatchcase(run.name, only)]
    if not chosen:
        names = ", ".join(run.name for run in TRAINING_RUNS)
        raise click.ClickException(f"no run's name fits {only!r}; the runs are {names}.")
    for run in chosen:
        folder = RUNS / run.name
        hangtag(["train", *run.arguments, "--out", str(folder), *options], dry_run=dry_run)
        if run.published and not run.published[0].exists():
            hangtag(["export", str(folder), "--models", str(TEACHERS), *run.published[1]], dry_run=dry_run)
        if not dry_run:
            trained = Run(folder)
            trained.require_finished()
            results.record(out, {"run": run.name} | line(run, trained))
            click.echo(f"recorded {run.name} in {out}")


def line(run: TrainingRun, trained: Run) -> results.Line:
    """A finished run's line: what was trained, and its figures.

    The seconds are the median epoch's times the number of epochs, because a run may be stopped for a while.
    """
    config, metrics = trained.read_config(), trained.read_metrics()
    recipe, summary, epochs = config["recipe"], metrics["summary"], metrics["epochs"]
    return {
        "group": run.group,
        "model": config["model"],
        "recipe": recipe["name"],
        "seed": config["seed"],
        "epochs": recipe["epochs"],
        "optimizer": recipe["optimizer"],
        "teachers": Counter(Path(file["path"]).parts[-3] for file in config["teachers"]),
        "precision": config["precision"],
        "threads": config["threads"],
        "trained": config["environment"]["created"][:10],
        "git_revision": (config["environment"]["git_revision"] or "")[:12],
        "parameters": summary["parameters"],
        "seconds": round(median(epoch["seconds"] for epoch in epochs) * len(epochs)),
        "peak_validation_accuracy": summary["peak_validation_accuracy"],
        "final_validation_accuracy": summary["final_validation_accuracy"],
        "validation_accuracy": summary["validation"]["accuracy"],
        "test_accuracy": summary["test"]["accuracy"],
    }
