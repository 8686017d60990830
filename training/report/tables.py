"""Describes runs in words for a terminal and a page: metrics, settings that differ, recipe, and provenance."""

from collections.abc import Mapping, Sequence
from typing import Any

from hangtag.training.runs.config import flat
from hangtag.training.runs.run import Run

FIGURES = {"accuracy": "accuracy", "o_f1": "O-F1"}  # the main metrics, for single labels and for sets of labels


def overview(run: Run) -> dict[str, Any]:
    """Return the run's main settings and metrics, under the names that ``hangtag runs --json`` uses. "figure" names a
    metric of FIGURES, and "validation" and "test" are its values in the best epoch. Unknown values are None."""
    config, metrics = run.config, run.metrics
    recipe, rows, summary = config["recipe"], metrics["epochs"], metrics.get("summary", {})
    figure = next((key for key in FIGURES if any(f"validation_{key}" in row for row in rows)), "accuracy")
    selects = f"validation_{config.get('select')}"
    best: Mapping[str, Any] = max(
        rows, key=lambda row: row.get(selects, row.get(f"validation_{figure}", 0.0)), default={}
    )
    return {
        "model": str(config.get("model")),
        "recipe": recipe.get("name", ""),
        "data": config.get("dataset", "fashion-mnist"),
        "limit": config.get("limit"),
        "seed": config.get("seed"),
        "epochs": len(rows),
        "epochs_planned": recipe.get("epochs"),
        "finished": bool(summary),
        "best_epoch": summary.get("best_epoch", best.get("epoch")),
        "figure": figure,
        "validation": summary.get("validation", {figure: best.get(f"validation_{figure}")}).get(figure),
        "test": summary.get("test", {}).get(figure),
        "minutes": round(sum(row.get("seconds", 0) for row in rows) / 60, 2),
    }


def cells(run: Run, exported_as: Sequence[str] = ()) -> dict[str, str]:
    """Return the cell texts of a run's row in the table of runs, by column. ``exported_as`` names the versions that
    were exported from the run, such as "lstm 3"."""
    run_is = overview(run)
    name = "" if run_is["figure"] == "accuracy" else f" {FIGURES[run_is['figure']]}"
    planned = "" if run_is["finished"] else f" of {run_is['epochs_planned'] or '?'}"
    shares = {split: run_is[split] for split in ("validation", "test")}
    return {
        "model": run_is["model"],
        "recipe": run_is["recipe"],
        "data": run_is["data"] + (f", --limit {run_is['limit']}" if run_is["limit"] else ""),
        "seed": text(run_is["seed"]),
        "epochs": f"{run_is['epochs']}{planned}",
        **{split: "-" if share is None else f"{share:.2%}{name}" for split, share in shares.items()},
        "minutes": f"{run_is['minutes']:.1f}",
        "exported as": ", ".join(exported_as) or "-",
    }


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the settings in which the runs differ, by full name, such as {"recipe.learning_rate": [0.001, 0.004]}."""
    configs = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config if key != "command")
    values = {key: [config.get(key) for config in configs] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def in_words(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the names and values of settings, for example of a run's recipe, in words."""
    return {
        key.removeprefix("environment.").replace("_", " ").replace(".", ": "): text(value)
        for key, value in flat(settings).items()
    }


def text(value: Any) -> str:
    """Return a setting or metric in words: a float with four digits, yes or no, a dash for None, a list with commas."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(" ".join(map(str, one.values())) if isinstance(one, dict) else text(one) for one in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
