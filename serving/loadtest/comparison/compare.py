"""Compares runs under the same load, from one test or from saved tests, by ratios with confidence intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.measuring.load_test import Results
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.plan.load import Load, OpenLoop
from hangtag.serving.loadtest.record import shown, stored, unstored
from hangtag.serving.loadtest.statistics.intervals import Interval

# The entries of the environment that identify the machine.
MACHINE = ("CPU", "CPUs usable", "system")


@dataclass(frozen=True)
class SavedResults:
    """The content of a file that `hangtag loadtest --json` wrote."""

    file: Path = stored()
    started: str = stored()
    environment: dict[str, str] = stored()
    accuracies: dict[str, float] = stored()  # Target -> accuracy, between 0 and 1.
    peaks: dict[str, float] = stored()  # Target -> peak in queries per second.
    runs: tuple[Run, ...] = unstored()
    settings: dict[str, str] = unstored(default_factory=dict)  # The models, samples and options of the test.


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return each label whose values in `before` and `after` differ, with both values."""
    both = [(label, value, after[label]) for label, value in before.items() if label in after]
    return {label: {"before": one, "after": other} for label, one, other in both if one != other}


def machine_differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Describe each difference between the machines of two environments; empty for the same machine."""
    found = differing(before, after)
    return [f"{label}: {' and '.join(found[label].values())}" for label in MACHINE if label in found]


@dataclass(frozen=True)
class Comparison:
    """The ratios of a target's figures to the baseline's figures, under one load."""

    target: str = stored("The target's name.", name="model")
    baseline: str = stored()
    load: Load = stored()
    throughput: Interval = stored()
    p50: Interval = stored()
    p99: Interval = stored()
    reason: str = unstored()  # Why the two runs cannot be compared; empty if they can.
    doubt: str | None = stored("The reason to doubt the ratios: other programs took CPU time.")
    generator_limited: bool = unstored()  # Whether the generator limited a throughput.
    saved: bool = unstored()  # Whether the two runs are of the same target, and come from two files.

    @shown()
    def meaningful(self) -> bool:
        """Whether both runs are valid."""
        return not self.reason

    @shown()
    def sentence(self) -> str:
        """A sentence that compares the runs, such as: cnn's p99 at 8 in flight is 4.1 times lstm's (95 %: 3.8 to
        4.4)."""
        at = f"at {self.load}"
        if self.reason:
            both = self.target if self.saved else f"{self.target} and {self.baseline}"
            return f"{both} {at} cannot be compared: {self.reason}."
        doubt = f" Doubtful: {self.doubt}." if self.doubt else ""
        baseline = "what it was" if self.saved else f"{self.baseline}'s"
        p99 = _phrase(f"{self.target}'s p99 {at}", self.p99, baseline)
        if isinstance(self.load, OpenLoop):
            return f"{p99}.{doubt}"
        if self.generator_limited:
            return f"{p99}; the throughputs cannot be compared, because the generator was the bottleneck.{doubt}"
        throughput = _phrase("its throughput", self.throughput, baseline)
        return f"{p99}; {throughput}.{doubt}"


def compare_targets(results: Results) -> tuple[Comparison, ...]:
    """Compare each target with the first target, under each load that both targets have."""
    comparisons = []
    for load in results.loads:
        runs = {run.target: run for run in results.under(load) if run.total.latency}
        baseline = runs.pop(results.scenario.names[0], None)
        if baseline is not None:
            comparisons += [compare(run, baseline) for run in runs.values()]
    return tuple(comparisons)


def compare(run: Run, baseline: Run, *, files: tuple[str, str] | None = None) -> Comparison:
    """Compare two runs under one load. If the runs are of one target but from two files, `files` has a name for each
    run, for messages. The blocks of saved runs are not paired, because they did not run next to each other."""
    paired = files is None
    p50, p99 = (run.latency(q).ratio_to(baseline.latency(q), paired=paired) for q in (50, 99))
    names = zip(files or (run.target, baseline.target), (run, baseline), strict=True)
    invalid = [name for name, each in names if not each.valid]
    others = max(each.total.others_cpu_share or 0.0 for each in (run, baseline))
    doubt = f"other programs took up to {others:.0%} of the CPUs during a run" if run.doubt or baseline.doubt else None
    return Comparison(
        target=run.target,
        baseline=baseline.target,
        load=run.load,
        throughput=run.rate.ratio_to(baseline.rate, paired=paired),
        p50=p50,
        p99=p99,
        # A ratio of INVALID figures means nothing.
        reason=f"{' and '.join(invalid)} {'is' if len(invalid) == 1 else 'are'} INVALID" if invalid else "",
        doubt=doubt,
        generator_limited=run.generator_limited or baseline.generator_limited,
        saved=files is not None,
    )


def _phrase(subject: str, ratio: Interval, baseline: str) -> str:
    interval = f"95 %: {units.ratio(ratio.low)} to {units.ratio(ratio.high)}" if ratio.known else ""
    if ratio.too_wide:
        return f"{subject} cannot be compared with {baseline}, because the blocks vary too much ({interval} times)"
    if ratio.known and not ratio.shows_difference:
        return f"{subject} shows no difference from {baseline} ({interval} times)"
    return f"{subject} is {units.ratio(ratio.estimate)} times {baseline}" + (f" ({interval})" if interval else "")


@dataclass(frozen=True)
class SavedComparison:
    """The comparison of two saved tests for each target and load that both have. It is stored as a JSON file."""

    before: SavedResults = stored()
    after: SavedResults = stored()
    schema: str = stored(default="hangtag.loadtest.comparison/1")

    @cached_property
    def pairs(self) -> list[tuple[Run, Run, Comparison]]:
        """Each run of `before`, the run of `after` with the same target and load, and their comparison."""
        files = (f"the run in {self.after.file}", f"the run in {self.before.file}")
        baselines = {(run.target, run.load): run for run in self.before.runs if run.total.latency}
        return [
            (baseline, run, compare(run, baseline, files=files))
            for run in self.after.runs
            if run.total.latency and (baseline := baselines.get((run.target, run.load)))
        ]

    @shown()
    def setting_differences(self) -> dict[str, dict[str, str]]:
        """The models, samples and options that differ."""
        return differing(self.before.settings, self.after.settings)

    @shown()
    def environment_differences(self) -> dict[str, dict[str, str]]:
        """The machines and versions that differ."""
        return differing(self.before.environment, self.after.environment)

    @shown()
    def comparisons(self) -> list[Comparison]:
        """For each target and load of both tests, the figures of `after` as multiples of those of `before`."""
        return [comparison for *_, comparison in self.pairs]
