"""The results of a load test: everything that a report needs."""

from dataclasses import dataclass, field
from functools import cached_property

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.machine.other_programs import SHORTEST
from hangtag.serving.loadtest.measuring.accuracy import Accuracy
from hangtag.serving.loadtest.measuring.caching import CacheCheck
from hangtag.serving.loadtest.measuring.calibration import Ceiling
from hangtag.serving.loadtest.measuring.peaks import Peak
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load, sort_key
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.sut.description import Description


@dataclass(frozen=True)
class Results:
    """Everything that a load test measured, and the circumstances."""

    scenario: Scenario
    descriptions: dict[str, Description]  # By target, from its server.
    sources: dict[str, str]  # By target: where its samples come from.
    runs: tuple[Run, ...]  # By load, then by target.
    interrupted: bool
    started: str  # ISO 8601, UTC.
    duration: float  # Seconds.
    command: str
    environment: dict[str, str] = field(default_factory=dict)
    peaks: tuple[Peak, ...] = ()
    accuracies: dict[str, Accuracy] = field(default_factory=dict)  # By target.
    caching: tuple[CacheCheck, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()  # The generator's, where it was calibrated.

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        """The loads that ran, closed loops first."""
        return tuple(sorted(dict.fromkeys(run.load for run in self.runs), key=sort_key))

    def under(self, load: Load) -> tuple[Run, ...]:
        """The runs under this load, in the order of the targets."""
        return tuple(run for run in self.runs if run.load == load)

    @property
    def generator_share(self) -> str | None:
        """A sentence on the generator's share of CPUs that it shared with the server; None where it shared none."""
        if not (self.runs and self.scenario.is_loopback):
            return None
        busiest = max(run.total.generator_cpu for run in self.runs)
        return (
            "The generator shared this machine's CPUs with the server; its busiest process took up to "
            f"{busiest:.0%} of one."
        )

    @property
    def others_sentence(self) -> str:
        """How much of this machine's CPUs other programs took; empty without runs."""
        if not self.runs:
            return ""
        shares = [run.total.others for run in self.runs if run.total.others is not None]
        if not shares:
            longest = self.scenario.warm_up + max(block.window for run in self.runs for block in run.blocks)
            if longest < SHORTEST:
                reason = f"each block took less than {units.duration(SHORTEST)}: raise --min-duration"
            else:
                reason = "the processes of a server on it cannot be distinguished from them"
            return f"How much of this machine's CPUs other programs took is not known, since {reason}."
        return f"Other programs took up to {max(shares):.0%} of this machine's CPUs during a run."

    @property
    def warm_up_queries(self) -> int:
        """Queries sent during warm-ups, and discarded."""
        return sum(run.total.warm_up_queries for run in self.runs)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the test as a whole is INVALID, apart from its runs: sentences without a full stop."""
        sentences = []
        if self.interrupted:
            sentences.append("The test was interrupted: only a part was measured")
        if not self.runs:
            sentences.append("Nothing was measured")
        sentences += [f"{check.target}: {check.problem}" for check in self.caching if check.problem]
        sentences += [f"{name}: {accuracy.problem}" for name, accuracy in self.accuracies.items() if accuracy.problem]
        sentences += [peak.sentence.removesuffix(".") for peak in self.peaks if peak.rate is None]
        return tuple(sentences)

    @property
    def doubtful(self) -> bool:
        """Whether other programs took so much of the CPUs that some run's figures are doubtful."""
        return any(run.doubt for run in self.runs)

    @property
    def valid(self) -> bool:
        """Whether the whole test ran, and all of its runs are VALID."""
        return not self.problems and all(run.valid for run in self.runs)
