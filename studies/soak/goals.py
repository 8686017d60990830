"""The goals of the soak as data, and their figures in a line of results."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from studies.results import Line

FEWEST_CALLS = 1000
"""Of a kind to a server in the first and in the last minutes, so that their p99s are compared."""
GROWS, SMALL = 2.0, 10.0
"""MB an hour. An interval wholly above GROWS is growth, and one that ends above SMALL may be."""
_TOO_SHORT = "the run was too short"
Fit: TypeAlias = Sequence[float]
"""A slope, and the ends of its 95 % interval."""


@dataclass(frozen=True)
class Verdict:
    """Whether a run reached a goal. measured: the figure, or why there is none, for a reader."""

    reached: Literal["yes", "no", "cannot tell", "not judged"]
    measured: str


@dataclass(frozen=True)
class Goal:
    """What a run should reach.

    Args:
        name: What the figure is, for a reader.
        bound: What it must be, for a reader.
        judge: Looks at a line of results.
    """

    name: str
    bound: str
    judge: Callable[[Line], Verdict]


def goals(line: Line) -> list[Goal]:
    """The goals of a run: some for all its calls and processes, and one for each kind that has a latency."""
    kinds = [
        Goal(f"p99 of the last minutes over the first: {kind}", "≤ 1.2", _p99_growth(kind, 1.2))
        for kind in line["latency"]
    ]
    return [*_OF_CALLS, *kinds, *_OF_PROCESSES]


def interval(fit: Fit) -> str:
    """A slope with its 95 % interval, for a reader."""
    return f"{fit[0]:+.1f} ({fit[1]:+.1f} to {fit[2]:+.1f})"


def _at_most(bound: float, figure: Callable[[Line], float | None], digits: int = 0) -> Callable[[Line], Verdict]:
    def judge(line: Line) -> Verdict:
        value = figure(line)
        if value is None:
            return Verdict("cannot tell", _TOO_SHORT)
        return Verdict("yes" if value <= bound else "no", f"{value:.{digits}f}")

    return judge


def _p99_growth(kind: str, bound: float) -> Callable[[Line], Verdict]:
    """The p99 of the last minutes over that of the first, of the server where it grew most."""

    def judge(line: Line) -> Verdict:
        servers = line["latency"][kind].values()
        fewest = min(calls for each in servers for calls in each["compared"])
        if fewest < FEWEST_CALLS:
            return Verdict("not judged", f"{fewest:,} calls")
        ratio = max(each["last_p99_ms"] / each["first_p99_ms"] for each in servers)
        return Verdict("yes" if ratio <= bound else "no", f"{ratio:.2f}")

    return judge


def _memory_growth(line: Line) -> Verdict:
    """Of the processes that lived through the run: of the one that surely grew most, else that may have grown most."""
    fits: list[Fit] = [process["mb_per_hour"] for process in _lasting(line) if process["mb_per_hour"] is not None]
    if not fits:
        return Verdict("cannot tell", _TOO_SHORT)
    surest = max(fits, key=lambda fit: fit[1])
    if surest[1] > GROWS:
        return Verdict("no", interval(surest))
    widest = max(fits, key=lambda fit: fit[2])
    return Verdict("yes" if widest[2] <= SMALL else "cannot tell", interval(widest))


def _growth(figure: str) -> Callable[[Line], float | None]:
    """By how many a count grew from the first minutes to the last, of the process where it grew most."""

    def of(line: Line) -> float | None:
        ends = [process[f"{figure}_first_last_max"][:2] for process in _lasting(line)]
        return max((last - first for first, last in ends if first is not None and last is not None), default=None)

    return of


def _lasting(line: Line) -> Iterator[Line]:
    for processes in line["processes"].values():
        yield from (process for process in processes.values() if process["lived_on"])


_OF_CALLS = (
    Goal("seconds by which a client was late with a call", "≤ 1", _at_most(1, lambda line: line["longest_delay"], 2)),
    Goal("unexplained errors", "0", _at_most(0, lambda line: line["unexplained"])),
    Goal("wrong answers, which are among them", "0", _at_most(0, lambda line: line["wrong"])),
    Goal(
        "versions that did not come to serve, processes that ended by themselves",
        "0",
        _at_most(0, lambda line: len(line["problems"])),
    ),
    Goal("errors in the servers' logs", "0", _at_most(0, lambda line: len(line["log_errors"]))),
)
_OF_PROCESSES = (
    Goal("memory, MB an hour, with its 95 % interval", f"from {GROWS:g} or less, to {SMALL:g} or less", _memory_growth),
    Goal("file descriptors gained, clients' connections included", "≤ 10", _at_most(10, _growth("fds"))),
    Goal("threads gained", "≤ 2", _at_most(2, _growth("threads"))),
)
