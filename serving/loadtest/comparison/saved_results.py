"""The results of an earlier load test, as far as later ones are compared with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load

# The entries of the environment that differ between machines.
MACHINE = ("CPU", "CPUs usable", "system")


@dataclass(frozen=True)
class SavedResults:
    """The content of a file that `hangtag loadtest --json` wrote."""

    file: Path
    runs: tuple[Run, ...]
    accuracies: dict[str, float]  # By target, between 0 and 1.
    peaks: dict[str, float]  # By target, in queries per second.
    environment: dict[str, str]
    started: str
    settings: dict[str, str] = field(default_factory=dict)  # What was measured and how: models, samples, options.

    def run(self, target: str, load: Load) -> Run | None:
        """The run of this target under this load, if there is one."""
        return next((run for run in self.runs if run.target == target and run.load == load), None)

    def environment_differences(self, environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
        """What differs between this environment and another one: both values, by label."""
        values = {
            label: (self.environment.get(label, units.NONE), environment.get(label, units.NONE))
            for label in {**self.environment, **environment}
        }
        return {label: (own, other) for label, (own, other) in values.items() if own != other}

    def setting_differences(self, after: "SavedResults") -> dict[str, tuple[str, str]]:
        """What differs between these settings and others, of those that both files record: both values, by label."""
        both = [label for label in self.settings if label in after.settings]
        values = {label: (self.settings[label], after.settings[label]) for label in both}
        return {label: (own, other) for label, (own, other) in values.items() if own != other}

    def machine_differences(self, environment: Mapping[str, str]) -> tuple[str, ...]:
        """How the machine differs from that of another environment, a line each; empty for the same machine."""
        return tuple(
            f"{label}: {self.environment.get(label, 'unknown')} and {environment.get(label, 'unknown')}"
            for label in MACHINE
            if self.environment.get(label) != environment.get(label)
        )
