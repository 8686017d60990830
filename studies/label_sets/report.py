"""Writes docs/cnn-rnn.md: CNN-RNN compared with its baselines, from the recorded runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import click

from studies import results
from studies.label_sets import outfits_picture
from studies.label_sets.run import BASELINES, DATASETS, MEASURES, MODELS, PATH, RESULTS, SEEDS, TOP, TRAINING_RUNS
from studies.page import Part, render, spread

GOALS = {"o_f1": 2, "exact_match": 5}
"""By how many points CNN-RNN should lead every baseline on outfits."""

Figures = Mapping[str, float]
Runs = Mapping[str, Mapping[str, Sequence[results.Line]]]
"""Lines by data set and model, in the order of their seeds."""


@dataclass(frozen=True)
class Row:
    """One way to decide: a model, the rule that turns its scores into labels, and the measures of each seed."""

    name: str
    rule: str
    seeds: Sequence[Figures]

    @property
    def figures(self) -> list[str]:
        """The measures in the order of MEASURES, in percent."""
        return [spread([100 * figures[measure] for figures in self.seeds]) for measure in MEASURES]


def read(path: Path = RESULTS) -> Runs:
    """The recorded runs by data set and model.

    Raises:
        click.ClickException: the file is malformed, two runs have the same seed, a run has another number of epochs
            than the others, or a run is missing.
    """
    runs: dict[str, dict[str, dict[int, results.Line]]] = {name: {model: {} for model in MODELS} for name in DATASETS}
    epochs: set[int] = set()
    lines = results.read(path)
    for name, line in lines.items():
        try:
            seeds, seed = runs[line["dataset"]][line["model"]], line["seed"]
            epochs.add(line["epochs"])
        except KeyError as error:
            raise click.ClickException(f"{path}: {name} is no run of this experiment ({error} is unknown).") from error
        if seed in seeds:
            raise click.ClickException(f"{path}: {name} is a second run of this model and data set with seed {seed}.")
        if len(epochs) > 1:
            raise click.ClickException(f"{path}: {name} has {line['epochs']} epochs, the runs before it have not.")
        seeds[seed] = line
    if missing := [run.name for run in TRAINING_RUNS if run.name not in lines]:
        raise click.ClickException(
            f"{path} lacks {len(missing)} runs, first {missing[0]}. 'python -m studies label_sets run' trains them."
        )
    return {
        dataset: {model: [seeds[seed] for seed in sorted(seeds)] for model, seeds in models.items()}
        for dataset, models in runs.items()
    }


def rows(models: Mapping[str, Sequence[results.Line]]) -> list[Row]:
    """One row for each rule that every seed of a model has figures of."""
    return [
        Row(name, rule, [line["rules"][rule] for line in lines])
        for name, lines in models.items()
        for rule in lines[0]["rules"]
        if all(rule in line["rules"] for line in lines)
    ]


def lead(rows: Sequence[Row], measure: str) -> list[float]:
    """For every seed, CNN-RNN's likeliest path minus the best baseline by any threshold, in points."""
    ours = next(row for row in rows if row.name == "cnn_rnn" and row.rule == PATH)
    rivals = [row for row in rows if row.name in BASELINES and not _is_top(row)]
    return [
        100 * (figures[measure] - max(row.seeds[seed][measure] for row in rivals))
        for seed, figures in enumerate(ours.seeds)
    ]


def _is_top(row: Row) -> bool:
    """Whether the row is the paper's convention, which the page shows but does not count as a rival."""
    return row.rule == f"top {TOP}"


def page(runs: Runs) -> str:
    """The page, in Markdown."""
    tables = {dataset: rows(models) for dataset, models in runs.items()}
    leads = {dataset: {measure: lead(table, measure) for measure in GOALS} for dataset, table in tables.items()}
    return render(
        Path(__file__).with_name("page.md.j2"),
        tables=tables,
        leads={
            dataset: {measure: spread(points, signed=True) for measure, points in measures.items()}
            for dataset, measures in leads.items()
        },
        seeds=len(SEEDS),
        top=TOP if any(_is_top(row) for table in tables.values() for row in table) else None,
        goals=GOALS,
        verdicts={measure: _verdict(leads["outfits"][measure], goal) for measure, goal in GOALS.items()},
        smaller={
            measure: mean(leads["outfits"][measure]) - mean(leads["outfits-independent"][measure]) for measure in GOALS
        },
    )


def _verdict(points: Sequence[float], goal: float) -> str:
    shortfall = goal - mean(points)
    return "reached" if shortfall <= 0 else f"missed by {shortfall:.2f}"


PARTS = (Part("docs/cnn-rnn.md", lambda: page(read())),)
PICTURES = (outfits_picture.PICTURE,)
