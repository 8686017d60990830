"""Defines comparisons of systems, measures rounds in which the systems take turns, and makes tables."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from hangtag.serving.loadtest.machine_check import OtherPrograms
from studies import page, results
from studies.bench import h2load
from studies.bench.goals import UNITS, Goal, Round, figures
from studies.bench.loads import Figures

BUSY = 0.05
"""If other programs took at least this share of the processors' time, the page mentions it."""
_GOAL_HEAD = ("figure", "system", "goal", "median", "over the rounds", "reached")
Rows = list[list[str]]


@dataclass(frozen=True)
class Comparison:
    """An experiment of the bench.

    Args:
        name: The name of the experiment and of its results file.
        systems: Each system and its description.
        loads: Each load and its description. Only closed loops have a row in the table of loads.
        goals: The goals to reach.
        packages: The packages whose versions are recorded.
        models: The names of the models that are called.
    """

    name: str
    systems: Mapping[str, str]
    loads: Mapping[str, str]
    goals: Sequence[Goal] = ()
    packages: Sequence[str] = ("grpcio", "pygrpc-native", "onnxruntime", "numpy", "protobuf")
    models: Sequence[str] = ("lstm", "cnn")

    @property
    def file(self) -> Path:
        return Path(__file__).with_name(f"{self.name}.jsonl")

    def run(self, rounds: int, measure: Callable[["Turns"], None], out: Path | None) -> None:
        """Measure the rounds and print the tables. Each round is written immediately, in case a later round fails.

        Args:
            rounds: The number of rounds.
            measure: Measures one round.
            out: The results file; if None, no file is written.
        """
        versions = {"h2load": h2load.version()} | results.versions(self.packages)
        lines = [results.conditions(versions)]
        for number in range(1, rounds + 1):
            click.echo(f"round {number} of {rounds}", err=True)
            turns = Turns(number, self.loads)
            others = OtherPrograms()
            measure(turns)
            share = others.share() or 0.0
            lines.append({"run": f"round {number}"} | turns.line | {"others": share})
            if share > BUSY:
                click.echo(f"other programs took {share:.0%} of the processors' time, so figures are low", err=True)
            if out:
                results.write(out, lines)
        for rows in (self.goal_rows(lines[1:]), self.load_rows(lines[1:])):
            click.echo(page.table(rows[0], rows[1:]) + "\n")
        click.echo(f"wrote {out}" if out else "wrote no file; to write one, add --out FILE")

    def read(self, path: Path | None = None) -> tuple[results.Line, list[results.Line]]:
        lines = results.read(path or self.file)
        return lines.pop("conditions"), list(lines.values())

    def part(self, path: Path | None = None) -> str:
        """Return the page's text about the measurement, the systems, the loads and the goals."""
        _, rounds = self.read(path)
        head, *rows = self.goal_rows(rounds)
        return f"""{self.loads_part(path)}

Rounds: {len(rounds)}. A goal limits a figure, or the ratio of two figures from the same round, and is judged by the
median over all rounds. The last columns show each system's median figures:

{page.table(head, rows)}"""

    def loads_part(self, path: Path | None = None, without: str = "") -> str:
        """Return a page's text about the measurement, the loads, and all systems but ``without``. It has no goals."""
        conditions, rounds = self.read(path)
        systems = "\n".join(f"- `{name}`: {self.systems[name]}" for name in self._measured(rounds, without))
        head, *rows = self.load_rows(rounds, without)
        return f"""{page.made_from(path or self.file, conditions)}.
{others_sentence(rounds)} The systems:

{systems}

Cells show medians: images a second and, in brackets, p50 / p99 in ms:

{page.table(head, rows)}"""

    def goal_rows(self, rounds: Sequence[Round]) -> Rows:
        """Return a header, and a row for each goal with the figures of all systems."""
        systems = self._measured(rounds)
        rows = [[*_GOAL_HEAD, *systems]]
        for goal in self.goals:
            values = goal.values(rounds)
            verdict = ["not measured", "", ""]
            if values:
                spread = f"{min(values):.3g} to {max(values):.3g}" if len(values) > 1 else ""
                verdict = [f"{statistics.median(values):.3g}", spread, "yes" if goal.reached(values) else "no"]
            own = [
                # Bare ONNX Runtime, as a ratio's reference, is measured under the load "batch", not the goal's load.
                middle(rounds, system, goal.model, "batch" if system == goal.reference == "bare" else goal.load,
                       goal.figure)
                for system in systems
            ]  # fmt: skip
            model = f"{goal.model}, " if goal.model else ""
            rows.append(
                [f"{model}{self.loads[goal.load]}, {UNITS[goal.figure]}", goal.system, _bound(goal), *verdict, *own]
            )
        return rows

    def load_rows(self, rounds: Sequence[Round], without: str = "") -> Rows:
        """Return a header with the systems, and a row for each model and load that has a rate."""
        systems = self._measured(rounds, without)
        rows = [["model", "load", *systems]]
        for model in self.models:
            for load, description in self.loads.items():
                cells = [_load_cell(rounds, system, model, load) for system in systems]
                if any(cells):
                    rows.append([model, description, *cells])
        return rows

    def _measured(self, rounds: Sequence[Round], without: str = "") -> list[str]:
        return [system for system in self.systems if system != without and any(system in turn for turn in rounds)]


class Turns:
    """A round, in which the systems take turns under each load. The next round begins with the next system.

    Attributes:
        number: The number of the round, from 1.
        line: The figures so far: system -> model -> load -> figures.
    """

    def __init__(self, number: int, loads: Mapping[str, str]) -> None:
        self.number, self.line, self._loads = number, results.Line(), loads

    def each(self, systems: Iterable[str], model: str | None, load: str, measure: Callable[[str], Figures]) -> None:
        """Measure one system after another under a load, and print one figure of each, the first that UNITS lists."""
        names = list(systems)
        for name in results.turn(names, self.number):
            self.set(name, model, load, measure(name))
        every = {name: self.get(name, model, load) for name in names}
        shown = next(unit for unit in UNITS if unit in every[names[0]])
        values = ", ".join(f"{name} {figures_of[shown]:,.4g}" for name, figures_of in every.items())
        title = f"{model}, {self._loads[load]}" if model else self._loads[load]
        click.echo(f"  {title}, {UNITS[shown]}: {values}", err=True)

    def set(self, system: str, model: str | None, load: str, measured: Figures) -> None:
        """Store the figures of a system under a load."""
        loads = self.line.setdefault(system, {})
        (loads if model is None else loads.setdefault(model, {}))[load] = measured

    def get(self, system: str, model: str | None, load: str) -> Figures:
        """Return the figures of a system under a load."""
        loads = self.line[system]
        measured: Figures = (loads if model is None else loads[model])[load]
        return measured


def others_sentence(rounds: Sequence[Round]) -> str:
    """Return a sentence on the processor time that other programs took during the rounds."""
    shares = [turn["others"] for turn in rounds]
    if max(shares) < BUSY:
        return "Other programs took less than 5 % of the processors' time."
    low, high = (100 * bound(shares) for bound in (min, max))
    return (
        f"**The machine was busy**: other programs took {low:.0f} to {high:.0f} % of the processors' time in the "
        "rounds, so the figures are low, and the ratios are less certain."
    )


def middle(rounds: Sequence[Round], system: str, model: str | None, load: str, name: str) -> str:
    """Return the median of a figure, formatted with at least three digits; empty if the figure is unknown."""
    if not (values := figures(rounds, system, model, load, name)):
        return ""
    value = statistics.median(values)
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _load_cell(rounds: Sequence[Round], system: str, model: str, load: str) -> str:
    """Return a cell with images a second and, in brackets, p50 and p99 in ms and a call's processor time if known."""
    rates = figures(rounds, system, model, load, "samples_per_s")
    times = [middle(rounds, system, model, load, name) for name in ("p50_ms", "p99_ms")]
    cpu = figures(rounds, system, model, load, "cpu_us")
    inner = " / ".join(filter(None, times)) + (f"; {statistics.median(cpu):,.0f} µs" if cpu else "")
    return f"{statistics.median(rates):,.0f} ({inner})" if rates else ""


def _bound(goal: Goal) -> str:
    sign, times = "≥" if goal.more_is_better else "≤", f" x {goal.reference}" if goal.reference else ""
    return f"{sign} {goal.bound:g}{times}"
