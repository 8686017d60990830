"""``make loadtest-agreement``: do three load generators say the same of a server that runs already?

On a machine that does nothing else. The tools take turns, so that what drifts hits all alike; medians of the rounds.
"""

import sys
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from benchmarks.loadtest.tools import TOOLS, Figures
from serving.loadtest import units

TOLERANCE = 0.1


@click.command()
@click.option("--server", default="127.0.0.1:8001", show_default=True)
@click.option("--model", default="lstm", show_default=True)
@click.option("--concurrency", default=8, show_default=True)
@click.option("--seconds", default=5, show_default=True, help="Of each run.")
@click.option("--rounds", default=5, show_default=True)
def main(server: str, model: str, concurrency: int, seconds: int, rounds: int) -> None:
    """Compare throughput and p50 of the same closed loop; exit code 1 when hangtag is more than 10 % off another."""
    seen: dict[str, list[Figures]] = {name: [] for name in TOOLS}
    for number in range(rounds):
        for place in range(len(TOOLS)):  # Each round begins with another one.
            name = list(TOOLS)[(place + number) % len(TOOLS)]
            seen[name].append(TOOLS[name](server, model, concurrency, seconds))
    ours = _middle(seen["hangtag"])
    table = Table("tool", "calls/s", "p50", "hangtag / tool", box=None)
    worst = 0.0
    for name, figures in seen.items():
        theirs = _middle(figures)
        ratios = (ours.throughput / theirs.throughput, ours.p50 / theirs.p50)
        worst = max(worst, *(abs(ratio - 1) for ratio in ratios))
        shown = f"{ratios[0]:.3f} in throughput, {ratios[1]:.3f} in p50"
        table.add_row(name, units.three_digits(theirs.throughput), units.duration(theirs.p50), shown)
    console = Console()
    console.print(f"{model}, {concurrency} in flight, median of {rounds} rounds of {seconds} s")
    console.print(table)
    if worst > TOLERANCE:
        console.print(f"they disagree by {worst:.1%}, more than {TOLERANCE:.0%}", style="red")
        sys.exit(1)


def _middle(figures: list[Figures]) -> Figures:
    return Figures(median(one.throughput for one in figures), median(one.p50 for one in figures))


if __name__ == "__main__":
    main()
