"""Two saved load tests side by side."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from hangtag.serving.loadtest.comparison.compare import Comparison, compare
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load


class SavedRuns(Protocol):
    """What is read of a file."""

    @property
    def file(self) -> Path:
        """Where it is."""

    @property
    def runs(self) -> Iterable[Run]:
        """Its runs."""

    def run(self, target: str, load: Load) -> Run | None:
        """The run of this target under this load."""


def compare_saved(before: SavedRuns, after: SavedRuns) -> tuple[Comparison, ...]:
    """`after` against `before`, for each target and load that both have. Their blocks did not run next to each other,
    so each varies on its own."""
    found = []
    for run in after.runs:
        baseline = before.run(run.target, run.load)
        if baseline is not None and run.total.latency and baseline.total.latency:
            files = (f"the run in {after.file}", f"the run in {before.file}")
            found.append(compare(run, baseline, files=files))
    return tuple(found)
