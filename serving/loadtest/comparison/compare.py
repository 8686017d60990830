"""Compares runs under the same load: ratios with confidence intervals, and a sentence for each comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.saved_results import SavedResults
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load, OpenLoop
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram
from hangtag.serving.loadtest.statistics.intervals import Interval, ratio_of_percentiles, ratio_of_rates


@dataclass(frozen=True)
class Comparison:
    """A target's figures as multiples of the baseline's, under one load."""

    target: str
    baseline: str
    load: Load
    throughput: Interval
    p50: Interval
    p99: Interval
    reason: str = ""  # Why the two cannot be compared; empty when they can.
    doubt: str = ""  # Which of the two runs are doubtful; empty for none.
    generator_limited: bool = False  # The generator, not the server, limited a throughput.
    saved: bool = False  # The same target in two files; the baseline is the earlier one.

    @property
    def meaningful(self) -> bool:
        """Whether both runs are VALID, so that their ratios say something."""
        return not self.reason

    @property
    def sentence(self) -> str:
        """For example: cnn's p99 at 8 in flight is 4.1 times lstm's (95 %: 3.8 to 4.4)."""
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
            return f"{p99}; their throughputs cannot be compared: the generator was the bottleneck.{doubt}"
        throughput = _phrase("its throughput", self.throughput, baseline)
        return f"{p99}; {throughput}.{doubt}"


def compare_targets(results: Results) -> tuple[Comparison, ...]:
    """Compare the other targets with the first one, under each load that both ran under."""
    comparisons = []
    for load in results.loads:
        runs = {run.target: run for run in results.under(load)}
        baseline = runs.pop(results.scenario.names[0], None)
        if baseline is not None:
            comparisons += [compare(run, baseline) for run in runs.values() if _answered(run, baseline)]
    return tuple(comparisons)


def compare_saved(before: SavedResults, after: SavedResults) -> tuple[Comparison, ...]:
    """Compare `after` with `before`, for each target and load in both.

    Their blocks did not run next to each other, so the two vary independently.
    """
    comparisons = []
    for run in after.runs:
        baseline = before.run(run.target, run.load)
        if baseline is not None and _answered(run, baseline):
            files = (f"the run in {after.file}", f"the run in {before.file}")
            comparisons.append(compare(run, baseline, files=files))
    return tuple(comparisons)


def compare(run: Run, baseline: Run, *, files: tuple[str, str] | None = None) -> Comparison:
    """Compare two runs under one load.

    `files` names the two runs in a sentence where they are saved runs of one target, whose blocks are not paired.
    """
    paired = files is None
    latencies, baseline_latencies = run.block_latencies(), baseline.block_latencies()
    rates, baseline_rates = run.block_throughputs(), baseline.block_throughputs()
    if paired:
        # An interrupted test may have one block more of one target; only rounds that both ran can be paired.
        blocks = min(len(rates), len(baseline_rates))
        latencies, baseline_latencies = latencies[:blocks], baseline_latencies[:blocks]
        rates, baseline_rates = rates[:blocks], baseline_rates[:blocks]
    values = DurationHistogram.values()
    p50, p99 = (ratio_of_percentiles(values, latencies, baseline_latencies, q, paired=paired) for q in (50, 99))
    throughput = ratio_of_rates(rates, baseline_rates, paired=paired)
    name, baseline_name = files or (run.target, baseline.target)
    return Comparison(
        target=run.target,
        baseline=baseline.target,
        load=run.load,
        throughput=throughput,
        p50=p50,
        p99=p99,
        reason=_invalid(((name, run), (baseline_name, baseline))),
        doubt=_doubt(run, baseline),
        generator_limited=run.generator_limited or baseline.generator_limited,
        saved=files is not None,
    )


def _answered(run: Run, baseline: Run) -> bool:
    """Whether both runs have latencies."""
    return bool(run.total.latency and baseline.total.latency)


def _invalid(runs: Sequence[tuple[str, Run]]) -> str:
    """Which runs are INVALID: figures that mean nothing alone mean nothing in a ratio."""
    names = [name for name, run in runs if not run.valid]
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} INVALID" if names else ""


def _doubt(run: Run, baseline: Run) -> str:
    """How much of the CPUs other programs took during the two runs, where that makes one of them doubtful."""
    if not (run.doubt or baseline.doubt):
        return ""
    shares = [share for each in (run, baseline) if (share := each.total.others) is not None]
    return f"other programs took up to {max(shares):.0%} of the CPUs meanwhile"


def _phrase(subject: str, ratio: Interval, baseline: str) -> str:
    interval = f"95 %: {units.ratio(ratio.low)} to {units.ratio(ratio.high)}" if ratio.known else ""
    if ratio.too_wide:
        return f"{subject} cannot be compared with {baseline}: the blocks vary too much ({interval} times)"
    if ratio.known and not ratio.shows_difference:
        return f"{subject} shows no difference to {baseline} ({interval} times)"
    return f"{subject} is {units.ratio(ratio.estimate)} times {baseline}" + (f" ({interval})" if interval else "")
