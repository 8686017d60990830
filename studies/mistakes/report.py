"""``make docs``: docs/mistakes.md, from results files: losses that know how bad a mistake is, beside plain ones."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import click
import jinja2

from hangtag.training.labels import distance as label_distance
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.metrics.severity import mean_severity
from studies.label_sets.report import spread

MODEL = "lstm"
LOSSES = ("cross-entropy", "soft-labels", "embedding-distance")
SEEDS = (0, 1, 2)
SEVERITY_GOAL, ACCURACY_GOAL = -10.0, -0.2
"""Percent of the severity with plain cross-entropy, and points of its accuracy."""

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One loss: the test accuracies (in percent) and mean severities of its runs, in the order of SEEDS."""

    loss: str
    settings: str
    accuracies: Sequence[float]
    severities: Sequence[float]

    @property
    def accuracy(self) -> str:
        return spread(self.accuracies)

    @property
    def severity(self) -> str:
        return spread(self.severities, digits=4)

    def severity_beside(self, plain: "Row") -> list[float]:
        """Seed by seed, in percent: below 0 is milder."""
        return [100 * (ours / theirs - 1) for ours, theirs in zip(self.severities, plain.severities, strict=True)]

    def accuracy_beside(self, plain: "Row") -> list[float]:
        """Seed by seed, in points."""
        return [ours - theirs for ours, theirs in zip(self.accuracies, plain.accuracies, strict=True)]


@dataclass(frozen=True)
class Trial:
    """One run with other settings of a loss, beside the plain run of its seed; on the validation split."""

    loss: str
    settings: str
    severity: float
    """In percent; below 0 is milder."""
    accuracy: float
    """In points."""


@dataclass(frozen=True)
class Bound:
    """What a shipped model's own probabilities allow, from an evaluation document. Accuracies and second in percent."""

    name: str
    mean: float
    nearest: float
    accuracy: float
    accuracy_then: float
    second: float

    @property
    def change(self) -> float:
        """Of the severity, in percent."""
        return 100 * (self.nearest / self.mean - 1)


def bounds(folder: Path) -> list[Bound]:
    """From the documents that `hangtag evaluate --json` wrote. Raises ClickException where one is none."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            document = json.loads(path.read_text())
            severity = document["severity"]
            nearest = severity["nearest"]
            found.append(
                Bound(
                    path.stem,
                    severity["mean"],
                    nearest["mean"],
                    100 * document["accuracy"],
                    100 * nearest["accuracy"],
                    100 * severity["second"],
                )
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise click.ClickException(f"{path} is no document of `hangtag evaluate --json` ({error!r}).") from error
    return found


def read(folders: Sequence[Path]) -> dict[str, dict[int, Result]]:
    """Whole runs of MODEL with the study's recipe, by loss and seed.

    Raises ClickException for a file that is no results file, and for a seed that is there twice.
    """
    found: dict[str, dict[int, Result]] = {loss: {} for loss in LOSSES}
    for path in sorted(path for folder in folders for path in folder.glob("*.json")):
        try:
            result = json.loads(path.read_text())
            config = result["config"]
            if config["model"] != MODEL or config["recipe"]["name"] != "study" or config["limit"] is not None:
                continue
            same = found[config["loss"]["name"] if config.get("loss") else "cross-entropy"]
            if config["seed"] in same:
                raise click.ClickException(f"{path} is a second run with this loss and seed {config['seed']}.")
            same[config["seed"]] = result
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise click.ClickException(f"{path} is no results file of a run ({error!r}).") from error
    return found


def rows(runs: Mapping[str, Mapping[int, Result]], distances: LabelDistances) -> list[Row]:
    """A row for each loss, plain cross-entropy first. There is a run of every loss with every seed of SEEDS."""
    return [_row(loss, [runs[loss][seed] for seed in SEEDS], distances) for loss in LOSSES]


def _row(loss: str, results: Sequence[Result], distances: LabelDistances) -> Row:
    settings = {_settings(result["config"].get("loss")) for result in results}
    if len(settings) > 1:
        raise click.ClickException(f"the runs with {loss} have other settings: {', '.join(sorted(settings))}.")
    tests = [result["metrics"]["summary"]["test"] for result in results]
    severities = [mean_severity(test["confusion"], distances.matrix) for test in tests]
    return Row(
        loss,
        settings.pop(),
        [100 * test["accuracy"] for test in tests],
        [severity for severity in severities if severity is not None],
    )


def trials(folder: Path, plain: Mapping[int, Result], distances: LabelDistances) -> list[Trial]:
    """From results files of single runs. Raises ClickException for one that is none, or has no plain run beside it."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text())
            loss, beside = result["config"]["loss"], plain[result["config"]["seed"]]
            ours, theirs = (run["metrics"]["summary"]["validation"] for run in (result, beside))
            severity, before = (mean_severity(split["confusion"], distances.matrix) for split in (ours, theirs))
            assert severity is not None
            assert before is not None
            points = 100 * (ours["accuracy"] - theirs["accuracy"])
            found.append(Trial(loss["name"], _settings(loss), 100 * (severity / before - 1), points))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise click.ClickException(f"{path} is no results file of a run with a loss ({error!r}).") from error
    return found


def _settings(loss: Mapping[str, Any] | None) -> str:
    return "" if loss is None else f"beta {loss['beta']:g}, weight {loss['weight']:g}"


def missing(runs: Mapping[str, Mapping[int, Result]]) -> list[str]:
    """The runs that the page needs and that have no results."""
    return [f"{MODEL} with {loss}, seed {seed}" for loss in LOSSES for seed in SEEDS if seed not in runs[loss]]


def page(table: Sequence[Row], tried: Sequence[Trial], limits: Sequence[Bound], distances: LabelDistances) -> str:
    """The page, in Markdown."""
    plain, *others = table
    comparisons = [
        {
            "loss": row.loss,
            "severity": spread(row.severity_beside(plain), signed=True),
            "accuracy": spread(row.accuracy_beside(plain), signed=True),
            "reached": mean(row.severity_beside(plain)) <= SEVERITY_GOAL
            and mean(row.accuracy_beside(plain)) >= ACCURACY_GOAL,
        }
        for row in others
    ]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701  Markdown
    return environment.from_string(Path(__file__).with_name("page.md.j2").read_text()).render(
        model=MODEL,
        rows=table,
        comparisons=comparisons,
        tried=tried,
        bounds=limits,
        provenance=distances.provenance,
        seeds=len(SEEDS),
    )


def page_of(runs: Mapping[str, Mapping[int, Result]], results: Path) -> str:
    """The page about these runs, and the trials and evaluations that lie under results."""
    distances = label_distance.default()
    tried = trials(results / "tried", runs["cross-entropy"], distances)
    return page(rows(runs, distances), tried, bounds(results / "evaluations"), distances)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/mistakes.md"), show_default=True)
@click.option("--study", type=click.Path(exists=True, path_type=Path), default=Path("docs/study"), show_default=True)
@click.option(
    "--results", type=click.Path(exists=True, path_type=Path), default=Path("docs/mistakes"), show_default=True
)
def main(study: Path, results: Path, out: Path) -> None:
    """Write the page about losses by distance of labels, once every run of `make mistakes` has its results file."""
    runs = read([study, results])
    if lacking := missing(runs):
        click.echo(f"{out} is not made: of the runs of `make mistakes` {len(lacking)} are lacking, first {lacking[0]}")
        return
    out.write_text(page_of(runs, results))
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
