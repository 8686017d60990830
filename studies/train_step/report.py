"""Writes the parts of docs/training.md about a training step of `lstm`; docs/study.md compares steps with Keras."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from hangtag.training.networks.single_label import STUDY_HIDDEN_SIZE
from studies import results
from studies.accuracy.report import PARTS as STUDY
from studies.page import Part, made_from, spread, table
from studies.train_step.batch import RESULTS as BATCHES
from studies.train_step.lstm_ways import BATCH_SIZE, LSTM_ALONE, OWN
from studies.train_step.profile import RESULTS as PROFILE


def profile_part(path: Path = PROFILE) -> str:
    """What a step's time is made of, operators, products and ways. Raises click.ClickException, as read."""
    lines = results.read(path)
    conditions = lines["conditions"]
    operators, products, ways = (lines[name]["rows"] for name in ("operators", "products", "ways"))
    operator_rows = [(f"`{row['operator']}`", f"{row['calls']:g}", f"{row['share']:.0%}") for row in operators]
    product_rows = [(row["product"], row["shape"], f"{row['gflops']:,.0f}") for row in products]
    way_rows = [
        (row["way"], f"{row['fastest_ms']:.2f}", f"{row['median_ms']:.2f}", f"{row['of_hangtag']:.0%}") for row in ways
    ]
    return "\n\n".join(
        [
            table(("part of the fastest step", "ms", "share"), _parts(products, ways), right=2),
            table(("operator", "calls a step", "share of the time"), operator_rows, right=2),
            table(("matrix product", "rows x inner x columns", "billion operations a second"), product_rows, right=2),
            table(("way", "fastest, ms", "median, ms", "of hangtag's median"), way_rows, right=3),
            "Milliseconds are processor time for 32 images, of bursts of three steps. "
            f"{_made(path, conditions)}, in {conditions['precision']}, {conditions['bursts']} bursts of each way.",
        ]
    )


def _parts(products: Sequence[results.Line], ways: Sequence[results.Line]) -> Iterator[tuple[str, str, str]]:
    """What the time of hangtag's fastest step is made of, as far as the products' speeds and the other ways tell."""
    fastest = {row["way"]: row["fastest_ms"] for row in ways}
    forwards, backwards, large = (row["gflops"] * 1e6 for row in products)  # operations a millisecond
    pixels = 28  # of a row, which is a time step's input, and rows in an image
    operations = 2 * BATCH_SIZE * pixels * (pixels + STUDY_HIDDEN_SIZE) * 4 * STUDY_HIDDEN_SIZE
    arithmetic = 3 * operations / large  # backwards there are two products for each one forwards
    small_products = operations / forwards + 2 * operations / backwards
    whole, lstm = fastest[OWN], fastest[LSTM_ALONE]
    parts = {
        "the products, at the speed of a large one": arithmetic,
        "what they take longer, because they are small": small_products - arithmetic,
        "the rest of the LSTM: gates, and copies into other layouts": lstm - small_products,
        "outside the LSTM: optimizer, classifier, dropout, loss": whole - lstm,
    }
    for name, milliseconds in parts.items():
        yield name, f"{milliseconds:.2f}", f"{milliseconds / whole:.0%}"


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
    threads = "one thread" if conditions["threads"] == 1 else f"{conditions['threads']} threads"
    return f"{made_from(path, conditions)} with {threads}"


PARTS = (
    *STUDY,
    Part("docs/training.md", profile_part, "step of lstm"),
    Part("docs/training.md", batch_part, "batch of lstm"),
)
