"""``make docs``: docs/cnn-rnn.md, CNN-RNN beside its baselines, from the results files in docs/cnn-rnn/."""

import json
from collections.abc import Iterator, Mapping, Sequence
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

Figures = Mapping[str, float]


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


def rows(results: Path, dataset: str) -> list[Row]:
    """Every model that has results for the data set: its own decisions, or those by each threshold."""
    found = []
    for name in MODELS:
        tests = [result["metrics"]["summary"]["test"] for result in _runs(results, name, dataset)]
        if not tests:
            continue
        if name == "cnn_rnn":
            found.append(Row(name, "likeliest path", tests))
            found.append(Row(name, "threshold, for O-F1", [test["by_threshold"]["o_f1"] for test in tests]))
            continue
        found.append(Row(name, "threshold, for O-F1", [test["by_threshold"]["o_f1"] for test in tests]))
        found.append(Row(name, "threshold, for exact match", [test["by_threshold"]["exact_match"] for test in tests]))
        if name == "sigmoids":
            found.append(Row(name, "threshold 0.5", [test["by_threshold"]["one_half"] for test in tests]))
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
    """Write the page about CNN-RNN and its baselines."""
    out.write_text(page(results))
    click.echo(f"wrote {out}")


def page(results: Path) -> str:
    """The page, in Markdown."""
    tables = {dataset: rows(results, dataset) for dataset in DATASETS}
    leads = {
        dataset: {measure: spread(lead(table, measure), signed=True) for measure in GOALS}
        for dataset, table in tables.items()
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701  Markdown
    return environment.from_string(Path(__file__).with_name("cnn_rnn.md.j2").read_text()).render(
        tables=tables,
        leads=leads,
        seeds=len(tables[DATASETS[0]][0].seeds),
        goal_o_f1=GOALS["o_f1"],
        goal_exact_match=GOALS["exact_match"],
    )


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """The mean, and the standard deviation where there are several."""
    middle = f"{mean(values):{'+' if signed else ''}.2f}"
    return middle if len(values) == 1 else f"{middle} ± {stdev(values):.2f}"


def _runs(results: Path, model: str, dataset: str) -> Iterator[Mapping[str, Any]]:
    for path in sorted(results.glob(f"{model}-*.json")):
        result = json.loads(path.read_text())
        if (result["config"]["model"], result["config"]["dataset"]) == (model, dataset):
            yield result


if __name__ == "__main__":
    main()
