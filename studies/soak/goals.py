"""The goals of the soak as data, and their figures in a line of results."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from studies.results import Line
from studies.soak.calls import KINDS

_FLAT = 2.0
"""MB an hour: what a slope may be even where its interval excludes 0."""


@dataclass(frozen=True)
class Goal:
    """A figure that must not be larger than its bound.

    Args:
        name: What the figure is, for a reader.
        bound: The most that it may be.
        figure: Computes it from a line of results; None where the run was too short for it.
        digits: After the point, of the figure.
    """

    name: str
    bound: float
    figure: Callable[[Line], float | None]
    digits: int = 0

    def reached(self, line: Line) -> bool | None:
        """Whether the figure is within the bound; None where there is none."""
        figure = self.figure(line)
        return None if figure is None else figure <= self.bound


def p99_growth(kind: str) -> Callable[[Line], float | None]:
    """The p99 of the last minutes over that of the first, of the server where it grew most."""

    def of(line: Line) -> float | None:
        figures = line["latency"][kind].values()
        ratios = [each["last_p99_ms"] / each["first_p99_ms"] for each in figures if each["first_p99_ms"]]
        return max(ratios, default=None)

    return of


def memory_growth(line: Line) -> float | None:
    """The steepest slope of the processes that lived through the run, in MB an hour; 0 where its interval has 0."""
    fits = [process["mb_per_hour"] for process in _lasting(line) if process["mb_per_hour"] is not None]
    slopes = [0.0 if low <= 0 else fitted for fitted, low, _high in fits]
    return max(slopes, default=None)


def growth(figure: str) -> Callable[[Line], float | None]:
    """By how many a count grew from the first minutes to the last, of the process where it grew most."""

    def of(line: Line) -> float | None:
        ends = [process[f"{figure}_first_last_max"][:2] for process in _lasting(line)]
        return max((last - first for first, last in ends if first is not None and last is not None), default=None)

    return of


def _lasting(line: Line) -> Iterator[Line]:
    for processes in line["processes"].values():
        yield from (process for process in processes.values() if process["lived_on"])


GOALS = (
    Goal("seconds by which a client was late with a call", 1, lambda line: line["longest_delay"], 2),
    Goal("unexplained errors", 0, lambda line: line["unexplained"]),
    Goal("wrong answers, which are among them", 0, lambda line: line["wrong"]),
    Goal(
        "versions that did not come to serve, processes that ended by themselves", 0, lambda line: len(line["problems"])
    ),
    Goal("errors in the servers' logs", 0, lambda line: len(line["log_errors"])),
    *(
        Goal(f"p99 of the last minutes over the first: {kind.name}", 1.2, p99_growth(kind.name), 2)
        for kind in KINDS
        if kind.judged
    ),
    Goal("memory, MB an hour", _FLAT, memory_growth, 1),
    Goal("file descriptors gained, clients' connections included", 10, growth("fds")),
    Goal("threads gained", 2, growth("threads")),
)
