"""Two models side by side, in sentences: how many times one's figure is the other's, and how sure that is."""

from dataclasses import dataclass

from serving.loadtest import units
from serving.loadtest.histogram import Histogram
from serving.loadtest.results import Results, Run
from serving.loadtest.scenario import Load, OpenLoop
from serving.loadtest.schedule import generator_for
from serving.loadtest.statistics import Interval, ratio_of_percentiles, ratio_of_rates


@dataclass(frozen=True)
class Comparison:
    """A model against the baseline (the first model named) under one load, as ratios."""

    model: str
    baseline: str
    load: Load
    throughput: Interval
    p50: Interval
    p99: Interval

    @property
    def sentence(self) -> str:
        """For example: cnn's p99 at 8 in flight is 4.1 times lstm's (95 %: 3.8 to 4.4)."""
        at = f"at {self.load}"
        p99 = _says(f"{self.model}'s p99 {at}", self.p99, self.baseline)
        if isinstance(self.load, OpenLoop):
            return p99 + "."
        throughput = _says("its throughput", self.throughput, self.baseline)
        return f"{p99}; {throughput}."


def comparisons(results: Results) -> tuple[Comparison, ...]:
    """Every other model against the first one, under each load that both ran under."""
    found = []
    for place, load in enumerate(results.loads):
        runs = {run.model: run for run in results.under(load)}
        baseline = runs.pop(results.scenario.models[0], None)
        for run in runs.values() if baseline else ():
            assert baseline is not None
            if run.total.latency and baseline.total.latency:
                found.append(_compare(run, baseline, results.scenario.seed, place))
    return tuple(found)


def _compare(run: Run, baseline: Run, seed: int, place: int) -> Comparison:
    # An interrupted test may have one block more of one model: only rounds that both ran can be paired.
    blocks = min(len(run.blocks), len(baseline.blocks))
    random = generator_for(seed, "bootstrap", place)
    latencies, baseline_latencies = run.block_latencies()[:blocks], baseline.block_latencies()[:blocks]
    p50, p99 = (ratio_of_percentiles(Histogram.values(), latencies, baseline_latencies, q, random) for q in (50, 99))
    throughput = ratio_of_rates(run.block_throughputs()[:blocks], baseline.block_throughputs()[:blocks], random)
    return Comparison(run.model, baseline.model, run.load, throughput, p50, p99)


def _says(subject: str, ratio: Interval, baseline: str) -> str:
    interval = f"95 %: {units.ratio(ratio.low)} to {units.ratio(ratio.high)}" if ratio.known else ""
    if ratio.known and not ratio.shows_difference:
        return f"{subject} shows no difference to {baseline}'s ({interval} times)"
    return f"{subject} is {units.ratio(ratio.estimate)} times {baseline}'s" + (f" ({interval})" if interval else "")
