"""What is recorded of each query, in simulated time, where the truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import expon, lognorm

from hangtag.serving.loadtest.generator.block_result import OK, BlockResult
from hangtag.serving.loadtest.generator.executors.recorder import Recorder
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import OpenLoop
from hangtag.serving.loadtest.plan.schedule import planned_send_times, random_generator

LOAD = OpenLoop(100.0)
LIMITS = Limits(min_duration=1.0, min_query_count=1, max_duration=10.0, max_query_count=1000)


def recorder(window_start: float) -> Recorder:
    return Recorder(window_start, LIMITS)


def test_the_warm_up_is_discarded_but_its_answers_within_the_window_count_as_throughput() -> None:
    new = recorder(1.0)
    new.record(0.5, 0.5, 0.9, OK)
    new.record(0.9, 0.9, 1.1, OK)
    new.record(1.0, 1.0, 1.2, OK)
    new.record(1.9, 1.9, 2.1, OK)  # Sent within the window, answered after it.
    result = new.result("cnn", LOAD, 2.0)
    assert result.warm_up_queries == 2
    assert result.queries == len(result.latency) == 2
    assert result.throughput == pytest.approx(2.0)


def test_the_processes_parts_of_a_block_are_combined() -> None:
    first, second = recorder(0.0), recorder(0.0)
    for number in range(10):
        first.record(number / 10, number / 10, number / 10 + 0.05, OK)
    second.record(0.1, 0.1, 0.15, OK)
    parts = [
        replace(first.result("cnn", LOAD, 1.0), generator_cpu=0.3, generator_busy=0.9, cpu_share=0.1),
        replace(second.result("cnn", LOAD, 1.0), generator_cpu=0.7, generator_busy=0.8, cpu_share=0.3),
    ]
    joined = BlockResult.from_processes(parts, LIMITS)
    assert joined.window == 1.0
    assert joined.queries == 11
    assert joined.throughput == pytest.approx(11.0)
    assert (joined.generator_cpu, joined.generator_busy) == (0.7, 0.9)
    assert joined.cpu_share == 0.4
    assert BlockResult.from_blocks(parts).cpu_share == 0.2
    assert joined.finished
    assert sum(len(one.latency) for one in joined.timeline) == 11
    assert [one.start for one in joined.timeline] == sorted({one.start for one in joined.timeline})
    assert not BlockResult.from_processes(parts, Limits(1.0, 12, 10.0, 1000)).finished
    assert not BlockResult.from_processes(parts, Limits(1.1, 1, 10.0, 1000)).finished


RATE, SECONDS, WARM_UP = 200.0, 100.0, 1.0
SIMULATED = OpenLoop(RATE)
LONG = Limits(SECONDS, 1000, 1000.0, 10**6)
STALL_AT, STALL = 40.0, 1.0


def measured(planned: np.ndarray, sent: np.ndarray, ended: np.ndarray) -> BlockResult:
    recorder = Recorder(WARM_UP, LONG)
    for number, times in enumerate(zip(planned.tolist(), sent.tolist(), ended.tolist(), strict=True)):
        recorder.record(*times, OK)
        if number % 777 == 0:
            recorder.fold()
    return recorder.result("cnn", SIMULATED, float(planned[-1]))


@pytest.fixture(scope="module")
def planned() -> np.ndarray:
    return planned_send_times(SIMULATED, LONG, WARM_UP, random_generator(1, "schedule"))


@pytest.mark.parametrize("distribution", [lognorm(0.5, scale=0.004), expon(scale=0.003)], ids=["lognormal", "expon"])
@pytest.mark.parametrize("q", [50.0, 90.0, 99.0])
def test_the_percentiles_are_those_of_the_distribution(planned: np.ndarray, distribution: object, q: float) -> None:
    """A server with unlimited parallelism and independent query times."""
    latencies = distribution.rvs(len(planned), random_state=7)  # type: ignore[attr-defined]
    result = measured(planned, planned, planned + latencies)
    true = distribution.ppf(q / 100)  # type: ignore[attr-defined]
    density = distribution.pdf(true)  # type: ignore[attr-defined]
    # Four standard errors of a sample quantile: sqrt(p (1 - p) / n) / density.
    error = 4 * np.sqrt(q / 100 * (1 - q / 100) / result.queries) / density
    assert result.latency.percentile(q) == pytest.approx(true, abs=error + 0.001 * true)
    assert result.throughput == pytest.approx(RATE, rel=0.03)
    assert result.warm_up_queries == np.count_nonzero(planned < WARM_UP)


def test_a_stall_shows_in_the_latency_from_planned_times_and_hides_in_that_from_actual_sends(
    planned: np.ndarray,
) -> None:
    """Coordinated omission: a client that waits for each answer before it sends the next, on a server that stands still
    for a second once. 2 ms a query; of 100 s, the stall and what had to wait behind it are over one percent."""
    free, sent, ended = 0.0, [], []
    for due in planned.tolist():
        left = max(due, free)
        free = left + 0.002
        if left < STALL_AT <= free:
            free += STALL
        sent.append(left)
        ended.append(free)
    result = measured(planned, np.array(sent), np.array(ended))
    assert result.service.percentile(99) == pytest.approx(0.002, rel=0.01)
    assert result.latency.percentile(99) > 0.25 * STALL
    # Both contain the one query that met the stall.
    assert result.service.maximum == pytest.approx(STALL + 0.002, rel=0.01)
    # The client sent late, which is counted too.
    assert result.delayed > RATE * STALL
    assert result.lateness.percentile(99) > 0.25 * STALL
