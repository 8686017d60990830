"""Reads what a run's config.json and metrics.json say, for people who look through runs. Needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hangtag.training.errors import RunMismatchError
from hangtag.training.runs.files import FILES, read_json, read_metrics, short_name

FIGURES = {"accuracy": "accuracy", "o_f1": "O-F1"}
"""The figures by which a run's best epoch is selected, and their names: of single labels, and of sets of labels."""


@dataclass(frozen=True)
class RunOverview:
    """One run's folder. Values that the files lack are None, or empty; ``trouble`` says which file cannot be read."""

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    trouble: str | None = None

    @property
    def model(self) -> str:
        return str(self.config.get("model", ""))

    @property
    def recipe(self) -> str:
        return str(self._recipe.get("name", ""))

    @property
    def data(self) -> str:
        """The name of the data set, and how much of it a trial run was trained on."""
        limit = self.config.get("limit")
        name = str(self.config.get("dataset", "fashion-mnist"))
        return f"{name}, first {limit:,}" if isinstance(limit, int) else name

    @property
    def epochs(self) -> int | None:
        """How many epochs the run is to have."""
        epochs = self._recipe.get("epochs")
        return epochs if isinstance(epochs, int) else None

    @property
    def rows(self) -> Sequence[Mapping[str, float]]:
        """The figures of each finished epoch."""
        rows = self.metrics.get("epochs")
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    @property
    def is_finished(self) -> bool:
        return isinstance(self.metrics.get("summary"), dict)

    @property
    def minutes(self) -> float:
        """How long the finished epochs took to train."""
        return sum(float(row.get("seconds", 0)) for row in self.rows) / 60

    @property
    def figure(self) -> str:
        """The key of the figure that selects the best epoch: one of FIGURES."""
        return next((key for key in FIGURES if any(f"validation_{key}" in row for row in self.rows)), "accuracy")

    @property
    def best_epoch(self) -> int | None:
        """The number of the epoch that is best on the validation split; None before the first."""
        if not self.rows:
            return None
        summary = self.metrics.get("summary")
        if isinstance(summary, dict) and isinstance(summary.get("best_epoch"), int):
            return int(summary["best_epoch"])
        selects = f"validation_{self.config.get('select', self.figure)}"
        best = max(self.rows, key=lambda row: row.get(selects, row.get(f"validation_{self.figure}", 0.0)))
        return int(best.get("epoch", 0)) or None

    def share(self, split: str) -> float | None:
        """The figure of the best epoch on a split. An unfinished run has none on the test split."""
        summary = self.metrics.get("summary")
        if isinstance(summary, dict):
            figures = summary.get(split)
            value = figures.get(self.figure) if isinstance(figures, dict) else None
        else:
            value = max((row.get(f"{split}_{self.figure}", 0.0) for row in self.rows), default=None)
            value = value if split == "validation" else None
        return float(value) if isinstance(value, int | float) else None

    @property
    def key(self) -> tuple[object, ...]:
        """Identifies the run in the metadata of a file that was exported from it: see ``key_of``."""
        return key_of(self.config)

    @property
    def _recipe(self) -> Mapping[str, Any]:
        recipe = self.config.get("recipe")
        return recipe if isinstance(recipe, dict) else {}


def key_of(config: Mapping[str, Any]) -> tuple[object, ...]:
    """What a run's config.json and the config in an exported file have in common, and other runs do not."""
    environment, recipe = config.get("environment"), config.get("recipe")
    created = environment.get("created") if isinstance(environment, dict) else None
    epochs = recipe.get("epochs") if isinstance(recipe, dict) else None
    return (config.get("model"), config.get("seed"), created, epochs)


def read(folder: Path) -> RunOverview:
    """Read a run's folder; a file that is damaged makes its ``trouble`` and raises nothing."""
    try:
        return RunOverview(folder, read_json(folder / "config.json"), read_metrics(folder))
    except RunMismatchError as error:
        return RunOverview(folder, trouble=str(error))


def read_all(runs: Path) -> list[RunOverview]:
    """Read every run under a folder, by name; the list is empty where there is no such folder."""
    return [read(config.parent) for config in sorted(runs.glob("*/config.json"))]


def find(run: str, runs: Path, alternative: str = "") -> RunOverview:
    """Find a run by its folder, a file in it, its name under ``runs``, or a model's name, for its latest finished run.

    An own network's name may be short, such as build for nets:build.

    Args:
        run: What it is named by.
        runs: The folder of runs.
        alternative: What the caller takes instead of a run, as a sentence for the end of the message.

    Raises:
        RunMismatchError: Nothing fits, or a file cannot be read; the message lists the runs that there are.
    """
    for path in (Path(run), runs / run):
        folder = path.parent if path.name in FILES else path
        if (folder / "config.json").is_file():
            found = read(folder)
            break
    else:
        known = read_all(runs)
        finished = [one for one in known if run in (one.model, short_name(one.model)) and one.is_finished]
        if not finished:
            names = ", ".join(one.folder.name for one in known) or "none"
            raise RunMismatchError(
                f"no finished run {run!r}: not a run's folder, and under {runs} there is no such run or model (runs "
                f"there: {names}). Train one with: hangtag train MODEL" + (f". {alternative}" if alternative else "")
            )
        found = max(finished, key=lambda one: (one.folder / "metrics.json").stat().st_mtime)
    if found.trouble:
        raise RunMismatchError(found.trouble)
    return found
