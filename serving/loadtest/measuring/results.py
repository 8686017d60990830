"""Everything that a load test found."""

from dataclasses import dataclass, field
from functools import cached_property

from hangtag.serving.loadtest.measuring.accuracy import Accuracy
from hangtag.serving.loadtest.measuring.caching import CacheCheck
from hangtag.serving.loadtest.measuring.calibration import Ceiling
from hangtag.serving.loadtest.measuring.peaks import Peak
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, order_of
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.sut.probe import Description


@dataclass(frozen=True)
class Results:
    """Everything that a report needs."""

    scenario: Scenario
    described: dict[str, Description]  # By target, as the servers described themselves.
    sources: dict[str, str]  # By target: where its samples come from.
    runs: tuple[Run, ...]  # By load in the order asked for, then by target.
    interrupted: bool
    started: str  # ISO 8601, UTC
    duration: float  # Seconds.
    command: str
    environment: dict[str, str] = field(default_factory=dict)
    peaks: tuple[Peak, ...] = ()
    accuracies: dict[str, Accuracy] = field(default_factory=dict)  # By target.
    caching: tuple[CacheCheck, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()  # The generator's own, where it was calibrated.

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        """The loads that were run, closed loops first."""
        return tuple(sorted(dict.fromkeys(run.load for run in self.runs), key=order_of))

    def under(self, load: Load) -> tuple[Run, ...]:
        """The runs under this load, in the order of the targets."""
        return tuple(run for run in self.runs if run.load == load)

    def closed_loops_of(self, target: str) -> tuple[Run, ...]:
        """A target's closed-loop runs in the order of the loads."""
        return tuple(run for run in self.runs if run.target == target and isinstance(run.load, ClosedLoop))

    @property
    def generator_share(self) -> str | None:
        """What the generator took of the CPUs that the server could have had, as a sentence; None where they share
        none."""
        if not (self.runs and self.scenario.is_loopback):
            return None
        busiest = max(run.total.generator_cpu for run in self.runs)
        return (
            "The generator shared this machine's CPUs with the server; its busiest process took up to "
            f"{busiest:.0%} of one."
        )

    @property
    def warm_up_queries(self) -> int:
        """How many queries were sent before measuring began, and discarded."""
        return sum(run.total.warm_up_queries for run in self.runs)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the test as a whole is INVALID, runs apart: sentences without a full stop, to be shown as they are."""
        found = []
        if self.interrupted:
            found.append("The test was interrupted: this is what there was")
        if not self.runs:
            found.append("Nothing was measured")
        found += [f"{check.target}: {check.problem}" for check in self.caching if check.problem]
        found += [f"{name}: {accuracy.problem}" for name, accuracy in self.accuracies.items() if accuracy.problem]
        found += [peak.sentence.removesuffix(".") for peak in self.peaks if peak.rate is None]
        return tuple(found)

    @property
    def valid(self) -> bool:
        """Whether the whole test ran, and every run of it is VALID."""
        return not self.problems and all(run.valid for run in self.runs)
