"""Two targets side by side, in sentences: how many times one's figure is the other's, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load, OpenLoop
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram
from hangtag.serving.loadtest.statistics.intervals import Interval, ratio_of_percentiles, ratio_of_rates


@dataclass(frozen=True)
class Comparison:
    """A target against the baseline under one load, as ratios. `reason` says why it means nothing, if so."""

    target: str
    baseline: str
    load: Load
    throughput: Interval
    p50: Interval
    p99: Interval
    reason: str = ""
    throughput_means_nothing: bool = False  # The generator set it, not the server.
    saved: bool = False  # The same target in two files; `baseline` is the earlier one's.

    @property
    def sentence(self) -> str:
        """For example: cnn's p99 at 8 in flight is 4.1 times lstm's (95 %: 3.8 to 4.4)."""
        at = f"at {self.load}"
        if self.reason:
            both = self.target if self.saved else f"{self.target} and {self.baseline}"
            return f"{both} {at} cannot be compared: {self.reason}."
        baseline = "what it was" if self.saved else f"{self.baseline}'s"
        p99 = _says(f"{self.target}'s p99 {at}", self.p99, baseline)
        if isinstance(self.load, OpenLoop):
            return p99 + "."
        if self.throughput_means_nothing:
            return f"{p99}; their throughputs cannot be compared: the generator was the bottleneck."
        throughput = _says("its throughput", self.throughput, baseline)
        return f"{p99}; {throughput}."


def comparisons(results: Results) -> tuple[Comparison, ...]:
    """Every other target against the first one, under each load that both ran under."""
    found = []
    for load in results.loads:
        runs = {run.target: run for run in results.under(load)}
        baseline = runs.pop(results.scenario.names[0], None)
        if baseline is not None:
            found += [compare(run, baseline) for run in runs.values() if run.total.latency and baseline.total.latency]
    return tuple(found)


def compare(run: Run, baseline: Run, *, files: tuple[str, str] | None = None) -> Comparison:
    """Two runs under one load. `files` names those that both
    come from, where they are saved runs of the same target: their blocks did not run next to each other."""
    paired = files is None
    latencies, baseline_latencies = run.block_latencies(), baseline.block_latencies()
    rates, baseline_rates = run.block_throughputs(), baseline.block_throughputs()
    if paired:
        # An interrupted test may have one block more of one target: only rounds that both ran can be paired.
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
        reason=_why_not(((name, run), (baseline_name, baseline))),
        throughput_means_nothing=run.generator_limited or baseline.generator_limited,
        saved=files is not None,
    )


def _why_not(runs: Sequence[tuple[str, Run]]) -> str:
    """Numbers that mean nothing alone mean nothing side by side."""
    invalid = [name for name, run in runs if not run.valid]
    return f"{' and '.join(invalid)} {'is' if len(invalid) == 1 else 'are'} INVALID" if invalid else ""


def _says(subject: str, ratio: Interval, baseline: str) -> str:
    interval = f"95 %: {units.ratio(ratio.low)} to {units.ratio(ratio.high)}" if ratio.known else ""
    if ratio.known and not ratio.shows_difference:
        return f"{subject} shows no difference to {baseline} ({interval} times)"
    return f"{subject} is {units.ratio(ratio.estimate)} times {baseline}" + (f" ({interval})" if interval else "")
