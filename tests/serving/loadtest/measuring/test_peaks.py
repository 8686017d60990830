"""The search for the peak, on a simulated server."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.messages import Block, Snapshot
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.measuring import peaks
from hangtag.serving.loadtest.measuring.session import Session
from hangtag.serving.loadtest.plan.load import ClosedLoop, OpenLoop
from hangtag.serving.loadtest.plan.scenario import Scenario
from tests.serving.loadtest.builders import block, targets


class SimulatedServer(GeneratorProcesses):
    """A server whose latency is 1 ms up to a rate, and 100 ms above."""

    def __init__(self, edge: float = 0.0, stop_after: int = 1000, queries: int = 0) -> None:
        self.edge, self.queries = edge, queries
        self.rates: list[float] = []
        self.stop = threading.Event()
        self._left = stop_after

    def run(self, block_: Block, on_progress: Callable[[Snapshot], None]) -> BlockResult:
        self._left -= 1
        if not self._left:
            self.stop.set()
        if isinstance(block_.load, ClosedLoop):
            return block(block_.target, block_.load, (0.001,) * 500)
        self.rates.append(block_.load.rate)
        latency = 0.001 if block_.load.rate <= self.edge else 0.1
        return block(block_.target, block_.load, (latency,) * (self.queries or block_.limits.min_query_count))


def session(generators: SimulatedServer, **settings: object) -> tuple[Scenario, Session]:
    scenario = Scenario(targets("fast", "slow"), find_peak=True, target_latency=0.01, **settings)  # type: ignore[arg-type]
    return scenario, Session(scenario, generators, generators.stop, lambda progress: None, lambda name: None)


def test_the_peak_is_found_and_confirmed() -> None:
    scenario, running = session(SimulatedServer(edge=730.0))
    running.run()
    for peak in peaks.find(scenario, running):
        assert peak.rate is not None
        assert 690 <= peak.rate <= 730
        assert peak.sentence == f"{peak.target} keeps p99 within 10.0 ms up to {peak.rate:.0f} calls/s."
        assert peak.confirmation is not None
        assert peak.confirmation.load == OpenLoop(peak.rate)
        first = peak.steps[0].load
        assert isinstance(first, OpenLoop)
        assert first.rate == pytest.approx(250.0, rel=0.02)  # Half of what the closed loop reached.


def test_a_bound_that_is_never_kept_has_no_peak() -> None:
    scenario, running = session(SimulatedServer(edge=0.0), rate=(50.0,))
    (fast, _) = peaks.find(scenario, running)
    assert fast.rate is None
    least = "from 9.96 calls/s on (lower ones take a longer --max-duration)"
    assert fast.sentence == f"fast keeps p99 within 10.0 ms at no rate {least}."
    scenario, running = session(SimulatedServer(edge=0.0), rate=(50.0,), max_duration=600.0)
    (fast, _) = peaks.find(scenario, running)
    assert fast.sentence == "fast keeps p99 within 10.0 ms at no rate."


def test_the_peak_of_a_high_percentile_is_found_with_the_queries_that_it_takes() -> None:
    scenario, running = session(SimulatedServer(edge=730.0), percentile=99.9, rate=(400.0,))
    (fast, _) = peaks.find(scenario, running)
    assert fast.rate is not None
    assert 690 <= fast.rate <= 730
    assert all(step.total.queries == 4603 for step in fast.steps)


def test_a_search_with_too_short_runs_does_not_claim_that_the_bound_is_missed() -> None:
    scenario, running = session(SimulatedServer(edge=730.0, queries=100), rate=(50.0,))
    (fast, _) = peaks.find(scenario, running)
    assert fast.rate is None
    assert fast.sentence == "fast: no run was long enough to tell whether p99 within 10.0 ms holds."


def test_a_stopped_search_is_reported() -> None:
    scenario, running = session(SimulatedServer(edge=730.0, stop_after=3), rate=(100.0,))
    fast, slow = peaks.find(scenario, running)
    assert len(fast.steps) + len(slow.steps) == 3
    assert "the search was stopped before it knew" in fast.sentence


class LateGenerator(SimulatedServer):
    """The same, with a generator that cannot keep up above `ceiling`."""

    def __init__(self, edge: float, ceiling: float) -> None:
        super().__init__(edge)
        self.ceiling = ceiling

    def run(self, block_: Block, on_progress: Callable[[Snapshot], None]) -> BlockResult:
        ran = super().run(block_, on_progress)
        assert isinstance(block_.load, OpenLoop)
        return replace(ran, delayed=ran.queries // 2 * (block_.load.rate > self.ceiling))


def test_a_peak_limited_by_the_generator_is_marked() -> None:
    scenario, running = session(LateGenerator(edge=10_000.0, ceiling=400.0), rate=(100.0,))
    (fast, _) = peaks.find(scenario, running)
    assert fast.rate is not None
    assert 380 <= fast.rate <= 400
    assert fast.limited_by_generator
    assert "the generator could not send more" in fast.sentence


def test_a_generator_that_fails_above_the_servers_edge_does_not_limit_the_peak() -> None:
    scenario, running = session(LateGenerator(edge=300.0, ceiling=350.0), rate=(100.0,))
    (fast, _) = peaks.find(scenario, running)
    assert any(step.generator_late for step in fast.steps)
    assert not fast.limited_by_generator
    assert fast.sentence == f"fast keeps p99 within 10.0 ms up to {fast.rate:.0f} calls/s."


def test_a_generator_late_at_every_rate_does_not_claim_that_the_bound_is_missed() -> None:
    scenario, running = session(LateGenerator(edge=10_000.0, ceiling=0.0), rate=(100.0,))
    (fast, _) = peaks.find(scenario, running)
    assert fast.rate is None
    late = "the generator could not keep up even at 9.96 calls/s"
    assert fast.sentence == f"fast: whether p99 within 10.0 ms holds is not known: {late}."
