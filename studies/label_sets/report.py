"""``make docs``: docs/cnn-rnn.md, CNN-RNN beside its baselines, from the results files in docs/cnn-rnn/."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import jinja2

DATASETS = ("outfits", "outfits-independent")
BASELINES = ("cnn_embedding", "sigmoids", "softmax_ranking")
MODELS = ("cnn_rnn", *BASELINES)
MEASURES = ("c_precision", "c_recall", "c_f1", "o_precision", "o_recall", "o_f1", "mean_ap", "exact_match")
GOALS = {"o_f1": 2, "exact_match": 5}  # points ahead of every baseline, on outfits
SEEDS = (0, 1, 2)
TOP = 3
"""The paper's convention where a model does not decide by itself: so many labels an image, whatever their scores."""

Figures = Mapping[str, float]
Run = Mapping[str, Any]
Runs = Mapping[str, Mapping[str, Sequence[Run]]]  # by data set and model, in the order of their seeds


@dataclass(frozen=True)
class Row:
    """One way of deciding: a model, its rule, and a measure's values over the seeds."""

    name: str
    rule: str
    seeds: Sequence[Figures]

    @property
    def figures(self) -> list[str]:
        """The measures in the order of MEASURES, in percent."""
        return [spread([100 * figures[measure] for figures in self.seeds]) for measure in MEASURES]


def rows(runs: Mapping[str, Sequence[Run]], top: int | None = None) -> list[Row]:
    """Every model's own decisions, or those by each threshold; and, if the runs tell them, by the top labels."""
    found = []
    for name, results in runs.items():
        tests = [result["metrics"]["summary"]["test"] for result in results]
        if name == "cnn_rnn":
            found.append(Row(name, "likeliest path", tests))
        found.append(Row(name, "threshold, for O-F1", [test["by_threshold"]["o_f1"] for test in tests]))
        if name != "cnn_rnn":
            found.append(
                Row(name, "threshold, for exact match", [test["by_threshold"]["exact_match"] for test in tests])
            )
        if name == "sigmoids":
            found.append(Row(name, "threshold 0.5", [test["by_threshold"]["one_half"] for test in tests]))
        by_rank = [test.get("by_rank", {}).get(f"top_{top}") for test in tests]
        if top and all(by_rank):
            found.append(Row(name, f"top {top}", by_rank))
    return found


def lead(rows: Sequence[Row], measure: str) -> list[float]:
    """For every seed, CNN-RNN's likeliest path minus the best baseline by any rule, in points."""
    ours = next(row for row in rows if row.name == "cnn_rnn" and row.rule == "likeliest path")
    rivals = [row for row in rows if row.name in BASELINES]
    return [
        100 * (figures[measure] - max(row.seeds[seed][measure] for row in rivals))
        for seed, figures in enumerate(ours.seeds)
    ]


@click.command()
@click.option(
    "--results", type=click.Path(exists=True, path_type=Path), default=Path("docs/cnn-rnn"), show_default=True
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/cnn-rnn.md"), show_default=True)
def main(results: Path, out: Path) -> None:
    """Write the page about CNN-RNN and its baselines, once every run of `make cnn-rnn` has its results file."""
    runs = read(results)
    if lacking := missing(runs):
        click.echo(f"{out} is not made: of the runs of `make cnn-rnn` {len(lacking)} are lacking, first {lacking[0]}")
        return
    out.write_text(page(runs))
    click.echo(f"wrote {out}")


def read(results: Path) -> Runs:
    """All results files of whole runs, by data set and model, in the order of their seeds.

    Raises ClickException for a file that is none, for a seed that is there twice, and for other numbers of epochs.
    """
    found: dict[str, dict[str, dict[int, Run]]] = {dataset: {model: {} for model in MODELS} for dataset in DATASETS}
    epochs: set[int] = set()
    for path in sorted(results.glob("*.json")):
        try:
            result = json.loads(path.read_text())
            config = result["config"]
            if config["limit"] is not None or config["dataset"] not in DATASETS:
                continue
            same = found[config["dataset"]][config["model"]]
            epochs.add(config["recipe"]["epochs"])
            seed = config["seed"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise click.ClickException(f"{path} is no results file of such a run ({error!r}).") from error
        if seed in same:
            raise click.ClickException(f"{path} is a second run of {config['model']} on this data with seed {seed}.")
        if len(epochs) > 1:
            raise click.ClickException(f"{path} is of {max(epochs)} or {min(epochs)} epochs; others are not.")
        same[seed] = result
    return {
        dataset: {model: [seeds[seed] for seed in sorted(seeds)] for model, seeds in models.items()}
        for dataset, models in found.items()
    }


def missing(runs: Runs) -> list[str]:
    """The runs that the page needs and that have no results, as `make cnn-rnn` names them."""
    return [
        f"{model}-{dataset}-seed{seed}"
        for seed in SEEDS
        for dataset in DATASETS
        for model in MODELS
        if seed not in [run["config"]["seed"] for run in runs[dataset][model]]
    ]


def page(runs: Runs) -> str:
    """The page, in Markdown. There is a run of every model with every seed of SEEDS."""
    tables = {dataset: rows(models, TOP) for dataset, models in runs.items()}
    ahead = {dataset: {measure: lead(rows(models), measure) for measure in GOALS} for dataset, models in runs.items()}
    leads = {
        dataset: {measure: spread(points, signed=True) for measure, points in measures.items()}
        for dataset, measures in ahead.items()
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701  Markdown
    return environment.from_string(Path(__file__).with_name("page.md.j2").read_text()).render(
        tables=tables,
        leads=leads,
        seeds=len(SEEDS),
        top=TOP if any(row.rule == f"top {TOP}" for table in tables.values() for row in table) else None,
        goal_o_f1=GOALS["o_f1"],
        goal_exact_match=GOALS["exact_match"],
        verdicts={measure: _verdict(ahead["outfits"][measure], goal) for measure, goal in GOALS.items()},
        shrinks=_shrinks(ahead),
    )


def _verdict(points: Sequence[float], goal: float) -> str:
    short = goal - mean(points)
    return "reached" if short <= 0 else f"missed by {short:.2f}"


def _shrinks(ahead: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """For each measure, how much less the lead is on the control set."""
    less = {measure: mean(ahead["outfits"][measure]) - mean(ahead["outfits-independent"][measure]) for measure in GOALS}
    return f"by {less['o_f1']:.2f} points in O-F1 and {less['exact_match']:.2f} in the exact match it is smaller"


def spread(values: Sequence[float], *, signed: bool = False, digits: int = 2) -> str:
    """The mean, and the standard deviation where there are several."""
    middle = f"{mean(values):{'+' if signed else ''}.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ± {stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
