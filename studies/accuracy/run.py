"""Trains the study's networks, the teachers and the networks that learn from them, and records each run's figures."""

from collections import Counter
from pathlib import Path
from statistics import median

from hangtag.training.runs.run import Run
from studies import results, training_runs
from studies.training_runs import RUNS, TrainingRun

RESULTS = Path(__file__).with_name("results.jsonl")
TEACHER_FILES = Path("studies/accuracy/teachers")
SEEDS = (0, 1, 2)
DRAWN = ("lstm", "lstm2", "cnn")
"""The networks of the published study, whose learning curves and confusion matrices the page shows."""


def _study(model: str, seed: int) -> TrainingRun:
    precision = "bf16" if model == "cnn" else "fp32"
    arguments = (model, "--seed", str(seed), "--precision", precision)
    return TrainingRun(f"{model}-study-seed{seed}", arguments, "study")


def _bf16(seed: int) -> TrainingRun:
    return TrainingRun(f"lstm-bf16-seed{seed}", ("lstm", "--seed", str(seed), "--precision", "bf16"), "bf16")


def _teacher(model: str, seed: int, *, int8: bool = False) -> TrainingRun:
    """Each is exported as the next version under runs/teachers, where recipes look for their teachers."""
    name, models = f"{model}-teacher-seed{seed}", RUNS / "teachers"
    options, published = (("--precision", "int8", "--timing", "none"), f"{model}-int8") if int8 else ((), model)
    return TrainingRun(
        name,
        (model, "--seed", str(seed), "--precision", "bf16"),
        "teacher",
        next_step=("export", str(RUNS / name), "--models", str(models), *options),
        next_file=models / published / str(seed + 1) / "model.onnx",
    )


def _best(model: str) -> TrainingRun:
    return TrainingRun(f"{model}-best-seed0", (model, "--recipe", "best", "--precision", "bf16"), "best")


def _same_view() -> TrainingRun:
    """Learns from files in the repository, of the runs resnet-28x28-teacher-seed0 and 1, and cnn-best-seed0 in INT8."""
    versions = ("resnet-28x28-int8/1", "resnet-28x28-int8/2", "cnn-int8/1")
    teachers = (f"--teacher={TEACHER_FILES / version / 'model.onnx'}" for version in versions)
    arguments = ("cnn", "--recipe", "same-view", "--precision", "bf16", *teachers)
    return TrainingRun("cnn-same-view-seed0", arguments, "same-view")


STUDY = (
    *(_study(model, seed) for model in ("lstm", "lstm-56", "lstm-280") for seed in SEEDS),
    _study("lstm2", 0),  # An hour and a half for a run: one seed.
    *(_study("cnn", seed) for seed in SEEDS),
)
# The results file also has runs that nothing trains again: the group "before-muon" has those of earlier versions of the
# recipes, "same-view-ended-early" one that was ended after 36 of its 90 epochs.
TEACHERS = (
    *(_teacher("resnet", seed) for seed in SEEDS),
    *(_teacher("resnet-28x28", seed, int8=True) for seed in (0, 1)),
)
STUDENTS = (*map(_best, DRAWN), _same_view())
TRAINING_RUNS = (*STUDY, *map(_bf16, SEEDS), *TEACHERS, *STUDENTS)


def line(run: TrainingRun, trained: Run) -> results.Line:
    """A finished run's line: what was trained, and the figures that the page shows.

    Its seconds are those of the median epoch times the epochs, since a run may be stopped for a while during some.
    """
    config, metrics = trained.read_config(), trained.read_metrics()
    recipe, summary, epochs = config["recipe"], metrics["summary"], metrics["epochs"]
    figures = {
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
    if run.group == "study" and config["model"] in DRAWN:
        figures["curves"] = {
            key: [round(epoch[key], 4) for epoch in epochs] for key in ("train_accuracy", "validation_accuracy")
        }
        if config["seed"] == 0:
            figures["confusion"] = summary["test"]["confusion"]
    return figures


main = training_runs.command(
    TRAINING_RUNS,
    line,
    RESULTS,
    "Train the study's networks, their teachers, and the networks by the recipes that learn from teachers.\n\n"
    "A finished run costs nothing, and a stopped one continues. TRAIN_OPTIONS are options of hangtag train, such as "
    "-- --threads 2.",
)
