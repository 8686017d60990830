"""Writes the parts of docs/training.md about a training step of `lstm`; docs/study.md compares steps with Keras."""

from pathlib import Path
from statistics import median

from studies import results
from studies.accuracy.report import PARTS as STUDY
from studies.page import Part, spread, table
from studies.train_step.larger_batch import RESULTS as BATCHES
from studies.train_step.profile import RESULTS as PROFILE


def profile_part(path: Path = PROFILE) -> str:
    """Tables of operators, products and ways. Raises click.ClickException, as read."""
    ways = results.read(path)
    conditions = ways.pop("conditions")
    operators = [
        (f"`{row['operator']}`", f"{row['calls']:g}", f"{row['share']:.0%}") for row in conditions["operators"]
    ]
    products = [(row["product"], row["shape"], f"{row['gflops']:,.0f}") for row in conditions["products"]]
    times = [
        (name, f"{way['fastest_ms']:.2f}", f"{way['median_ms']:.2f}", f"{way['of_own']:.0%}")
        for name, way in ways.items()
    ]
    return "\n\n".join(
        [
            table(("operator", "calls a step", "share of the time"), operators, right=2),
            table(("matrix product", "rows x inner x columns", "billion operations a second"), products, right=2),
            table(("way", "fastest, ms", "median, ms", "of hangtag's median"), times, right=3),
            "Milliseconds are processor time for 32 images, of bursts of three steps. "
            f"{_made(path, conditions)}, in {conditions['precision']}, {conditions['bursts']} bursts of each way.",
        ]
    )


def batch_part(path: Path = BATCHES) -> str:
    """A table of accuracies by batch size and learning rate. Raises click.ClickException, as read."""
    lines = results.read(path)
    conditions = lines.pop("conditions")
    rows = [
        (
            str(line["batch_size"]),
            f"{line['learning_rate']:g}",
            *(f"{spread([100 * share for share in line[key]])} %" for key in ("validation_accuracy", "test_accuracy")),
            f"{median(line['epoch_seconds']):.1f} s",
        )
        for line in lines.values()
    ]
    seeds = len(next(iter(lines.values()))["test_accuracy"])
    return "\n\n".join(
        [
            table(("batch", "learning rate", "validation", "test", "an epoch takes"), rows, right=5),
            f"Mean and standard deviation of {seeds} seeds; of times the median. "
            f"{_made(path, conditions)}, in {conditions['precision']}.",
        ]
    )


def _made(path: Path, conditions: results.Line) -> str:
    file = f"studies/train_step/{path.name}"
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    return (
        f"Made by `make docs` from [{file}](../{file}), measured {conditions['date']} on {conditions['cpus']} CPUs "
        f"({conditions['processor']}; {versions}) by `{conditions['command']}` with {_threads(conditions['threads'])}"
    )


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


PARTS = (
    *STUDY,
    Part("docs/training.md", profile_part, "step of lstm"),
    Part("docs/training.md", batch_part, "batch of lstm"),
)
