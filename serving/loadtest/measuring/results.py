"""Defines the results of a load test, which contain everything that a report needs."""

from dataclasses import dataclass
from functools import cached_property

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.machine_check import SHORTEST
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.measuring.peaks import Peak
from hangtag.serving.loadtest.plan.load import Load, sort_key
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.record import shown, stored
from hangtag.serving.loadtest.statistics.intervals import Accuracy
from hangtag.serving.loadtest.sut import Description, Server


@dataclass(frozen=True)
class Results:
    """Everything that a load test measured, with the circumstances of the test."""

    targets: tuple[Description, ...] = stored("The targets, in the order of the command line.")
    scenario: Scenario = stored("Every setting, including defaults.")
    runs: tuple[Run, ...] = stored("The runs, sorted by load and then by target.")
    interrupted: bool = stored()
    started: str = stored("The time at which the test began (ISO 8601, UTC).")
    duration: float = stored()
    command: str = stored()
    environment: dict[str, str] = stored(default_factory=dict)
    peaks: tuple[Peak, ...] = stored(default=())

    @shown()
    def server(self) -> Server:
        """The server of the first target."""
        return self.targets[0].server

    @shown()
    def samples(self) -> dict[str, str]:
        """The source of the samples of each target."""
        return {target.name: target.samples for target in self.targets}

    @property
    def accuracies(self) -> dict[str, Accuracy]:
        """The accuracy of each target whose accuracy was measured."""
        return {target.name: target.accuracy for target in self.targets if target.accuracy is not None}

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        """The loads that ran. Closed loops come before open loops."""
        return tuple(sorted(dict.fromkeys(run.load for run in self.runs), key=sort_key))

    def under(self, load: Load | None) -> tuple[Run, ...]:
        """Return the runs under this load, in the order of the targets."""
        return tuple(run for run in self.runs if run.load == load)

    @property
    def batched(self) -> bool:
        """Whether a query has several samples, so that calls per second differ from samples per second."""
        return self.scenario.batch_size > 1

    @property
    def generator_share(self) -> str:
        """A sentence about the generator's share of the CPUs that it shared with the server; empty without such
        CPUs."""
        if not (self.runs and self.scenario.is_loopback):
            return ""
        busiest = max(run.total.generator_cpu for run in self.runs)
        return (
            "The generator shared this machine's CPUs with the server. The generator's busiest process used up to "
            f"{busiest:.0%} of a CPU."
        )

    @property
    def others_sentence(self) -> str:
        """A sentence about the share of this machine's CPUs that other programs took; empty if there are no runs."""
        if not self.runs:
            return ""
        shares = [run.total.others_cpu_share for run in self.runs if run.total.others_cpu_share is not None]
        if not shares:
            return (
                "The share of this machine's CPUs that other programs took is unknown, because each block took less "
                f"than {units.duration(SHORTEST)} (raise --min-duration), or the server's processes cannot be "
                "distinguished from other programs."
            )
        return f"Other programs took up to {max(shares):.0%} of this machine's CPUs during a run."

    @property
    def warm_up_queries(self) -> int:
        """The number of queries that were sent during warm-ups and discarded."""
        return sum(run.total.warm_up_queries for run in self.runs)

    @shown("problems")
    def invalid(self) -> tuple[str, ...]:
        """The reasons why the test as a whole is not valid, without the reasons of single runs."""
        sentences = []
        if self.interrupted:
            sentences.append("The test was interrupted, so only a part of the test was measured")
        if not self.runs:
            sentences.append("Nothing was measured")
        sentences += [f"{name}: {accuracy.invalid}" for name, accuracy in self.accuracies.items() if accuracy.invalid]
        sentences += [peak.sentence.removesuffix(".") for peak in self.peaks if peak.rate is None]
        return tuple(sentences)

    @property
    def doubtful(self) -> int:
        """The number of runs whose figures are doubtful, because other programs took much CPU time."""
        return sum(bool(run.doubt) for run in self.runs)

    @shown()
    def valid(self) -> bool:
        """Whether the whole test ran, and all of its runs are valid."""
        return not self.invalid and all(run.valid for run in self.runs)
