"""What is measured beside the load: accuracy, caching, the peak, the generator's ceiling."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from scipy.stats import binomtest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.errors import SampleError, TargetError
from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.messages import Block, CallSettings, Snapshot
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.measuring import accuracy, caching, calibration, peaks
from hangtag.serving.loadtest.measuring.session import Progress, Session
from hangtag.serving.loadtest.plan.load import ClosedLoop, OpenLoop
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.samples import SampleLibrary, load
from hangtag.serving.loadtest.statistics.intervals import Interval
from hangtag.serving.loadtest.sut.probe import Probe
from tests.serving.loadtest.builders import block, description, targets
from tests.serving.loadtest.fake_server import FakeServer, metadata


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """120 images whose first pixel is their label, but for every tenth, which says something else."""
    labels = np.arange(120) % 10
    images = np.zeros((120, 28, 28), np.uint8)
    images[:, 0, 0] = labels
    images[::10, 0, 0] = 9
    np.savez(tmp_path / "labelled.npz", image=images, labels=labels)
    return tmp_path / "labelled.npz"


def by_first_pixel(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Probabilities, highest at the first pixel's value, and logits, which here say the opposite."""
    shape = list(request.inputs[0].shape)
    pixels = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(shape)[:, 0, 0]
    scores = np.eye(10, dtype=np.float32)[pixels]
    response = pb.ModelInferResponse(model_name=request.model_name)
    for name, values in (("logits", -scores), ("probabilities", scores)):
        response.outputs.add(name=name, datatype="FP32", shape=scores.shape)
        response.raw_output_contents.append(values.tobytes())
    return response


def measure(
    server: FakeServer, path: Path | None, seen: list[accuracy.AccuracyProgress] | None = None, **parameters: str
) -> accuracy.Accuracy | None:
    (target,) = targets("fast", address=server.address)
    library: SampleLibrary = load(target, metadata("fast"), 1, 0, path)
    with Probe(server.address, Credentials()) as probe:
        told = description(target, **parameters)
        return accuracy.measure(library, told, probe, 5.0, threading.Event(), (seen if seen is not None else []).append)


def test_every_sample_is_sent_once_and_counted(server: FakeServer, labelled: Path) -> None:
    server.answer = by_first_pixel
    seen: list[accuracy.AccuracyProgress] = []
    found = measure(server, labelled, seen)
    assert found == accuracy.Accuracy(108, 120)
    assert [(at.done, at.total) for at in seen] == [(50, 120), (100, 120), (120, 120)]
    assert seen[-1] == accuracy.AccuracyProgress("fast", 108, 120, 120)
    assert sum(request.inputs[0].shape[0] for request in server.requests) == 120
    assert max(request.inputs[0].shape[0] for request in server.requests) == accuracy.BATCH_SIZE


def test_typed_contents_are_read_too(server: FakeServer, labelled: Path) -> None:
    def typed(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        response = by_first_pixel(request)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
            output.contents.fp32_contents.extend(np.frombuffer(raw, np.float32).tolist())
        del response.raw_output_contents[:]
        return response

    server.answer = typed
    assert measure(server, labelled) == accuracy.Accuracy(108, 120)


def test_accuracy_needs_labels_and_one_answer(server: FakeServer, labelled: Path) -> None:
    with pytest.raises(SampleError, match="have no labels: accuracy needs --samples with an"):
        measure(server, None)
    with pytest.raises(SampleError, match="gives a set of labels, not one"):
        measure(server, labelled, None, **{"hangtag.task": "multi_label"})
    with pytest.raises(SampleError, match="has no output with one score a class"):
        measure(server, labelled)  # It answers without any output.


def test_a_call_that_fails_ends_the_measuring_of_accuracy(server: FakeServer, labelled: Path) -> None:
    server.behaviour = lambda number, context: context.abort(grpc.StatusCode.INTERNAL, "broken")
    with pytest.raises(TargetError, match=r"INTERNAL \(broken\)"):
        measure(server, labelled)


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (9117, 10_000), (50, 50), (1, 3)])
def test_the_interval_is_wilsons(correct: int, total: int) -> None:
    low, high = accuracy.Accuracy(correct, total).interval
    theirs = binomtest(correct, total).proportion_ci(method="wilson")
    assert low == pytest.approx(theirs.low, abs=1e-12)
    assert high == pytest.approx(theirs.high, abs=1e-12)


@pytest.mark.parametrize(("correct", "off"), [(9009, False), (8999, False), (8909, True), (0, True)])
def test_an_accuracy_below_99_percent_of_the_files_is_off(correct: int, off: bool) -> None:
    assert (accuracy.Accuracy(correct, 10_000, expected=0.9).problem is not None) is off
    assert accuracy.Accuracy(correct, 10_000).problem is None


class Simulated(GeneratorProcesses):
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


def session(generators: Simulated, **settings: object) -> tuple[Scenario, Session]:
    scenario = Scenario(targets("fast", "slow"), find_peak=True, target_latency=0.01, **settings)  # type: ignore[arg-type]
    return scenario, Session(scenario, generators, generators.stop, lambda progress: None, lambda name: None)


def test_the_peak_is_found_and_said() -> None:
    scenario, running = session(Simulated(edge=730.0))
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
    scenario, running = session(Simulated(edge=0.0), rate=(50.0,))
    (fast, _) = peaks.find(scenario, running)
    assert fast.rate is None
    least = "from 9.96 calls/s on (lower ones take a longer max_duration)"
    assert fast.sentence == f"fast keeps p99 within 10.0 ms at no rate {least}."
    scenario, running = session(Simulated(edge=0.0), rate=(50.0,), max_duration=600.0)
    (fast, _) = peaks.find(scenario, running)
    assert fast.sentence == "fast keeps p99 within 10.0 ms at no rate."


def test_the_peak_of_a_high_percentile_is_found_with_the_queries_that_it_takes() -> None:
    scenario, running = session(Simulated(edge=730.0), percentile=99.9, rate=(400.0,))
    (fast, _) = peaks.find(scenario, running)
    assert fast.rate is not None
    assert 690 <= fast.rate <= 730
    assert all(step.total.queries == 4603 for step in fast.steps)


def test_a_search_whose_runs_are_too_short_does_not_say_that_the_bound_is_missed() -> None:
    scenario, running = session(Simulated(edge=730.0, queries=100), rate=(50.0,))
    (fast, _) = peaks.find(scenario, running)
    assert fast.rate is None
    assert fast.sentence == "fast: no run was long enough to tell whether p99 within 10.0 ms holds."


def test_a_search_that_is_stopped_says_so() -> None:
    scenario, running = session(Simulated(edge=730.0, stop_after=3), rate=(100.0,))
    fast, slow = peaks.find(scenario, running)
    assert len(fast.steps) + len(slow.steps) == 3
    assert "the search was stopped before it knew" in fast.sentence


class Late(Simulated):
    """And a generator that cannot keep up above a rate of its own."""

    def __init__(self, edge: float, ceiling: float) -> None:
        super().__init__(edge)
        self.ceiling = ceiling

    def run(self, block_: Block, on_progress: Callable[[Snapshot], None]) -> BlockResult:
        ran = super().run(block_, on_progress)
        assert isinstance(block_.load, OpenLoop)
        return replace(ran, delayed=ran.queries // 2 * (block_.load.rate > self.ceiling))


def test_a_peak_that_the_generator_set_is_not_the_servers() -> None:
    scenario, running = session(Late(edge=10_000.0, ceiling=400.0), rate=(100.0,))
    (fast, _) = peaks.find(scenario, running)
    assert fast.rate is not None
    assert 380 <= fast.rate <= 400
    assert fast.limited_by_generator
    assert "the generator could not send more" in fast.sentence


def test_a_generator_that_fails_above_the_servers_own_edge_did_not_set_the_peak() -> None:
    scenario, running = session(Late(edge=300.0, ceiling=350.0), rate=(100.0,))
    (fast, _) = peaks.find(scenario, running)
    assert any(step.generator_late for step in fast.steps)
    assert not fast.limited_by_generator
    assert fast.sentence == f"fast keeps p99 within 10.0 ms up to {fast.rate:.0f} calls/s."


def test_a_generator_that_is_late_at_every_rate_does_not_say_that_the_bound_is_missed() -> None:
    scenario, running = session(Late(edge=10_000.0, ceiling=0.0), rate=(100.0,))
    (fast, _) = peaks.find(scenario, running)
    assert fast.rate is None
    late = "the generator could not keep up even at 9.96 calls/s"
    assert fast.sentence == f"fast: whether p99 within 10.0 ms holds is not known: {late}."


def check_caching(server: FakeServer) -> caching.CacheCheck | None:
    (target,) = targets("fast", address=server.address)
    scenario = Scenario((target,), min_duration=0.6, min_query_count=60)
    sent = caching.request_pools(target, metadata("fast"), batch_size=1)
    stop = threading.Event()
    with GeneratorProcesses(sent, CallSettings(), 2, stop) as generators:
        return caching.check(scenario, target, sent, generators, stop, lambda progress: None)


@pytest.mark.parametrize("remembers", [False, True])
def test_remembered_answers_are_noticed(server: FakeServer, remembers: bool) -> None:
    known: set[bytes] = set()

    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        image = server.requests[number].raw_input_contents[0]
        if not (remembers and image in known):
            known.add(image)
            threading.Event().wait(0.02)  # To compute an answer.

    server.behaviour = behaviour
    found = check_caching(server)
    assert found is not None
    assert (found.problem is not None) is remembers, found
    counts = Counter(request.raw_input_contents[0] for request in server.requests)
    ((_, most), (_, second)) = counts.most_common(2)
    assert most > 20
    assert second == 1  # A server that remembers any number of answers has none of them.


def test_a_check_for_caching_that_nobody_answers_finds_nothing(server: FakeServer) -> None:
    server.behaviour = lambda number, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not such values")
    found = check_caching(server)
    assert found is not None
    assert (
        found.problem == "whether its answers are computed is not known: random values for its inputs went unanswered"
    )


def test_a_check_for_caching_takes_different_samples() -> None:
    (target,) = targets("fast")
    flag = pb.ModelMetadataResponse.TensorMetadata(name="flag", datatype="BOOL", shape=[-1, 1])
    with pytest.raises(SampleError, match="only 1 different requests that fit into memory can be generated"):
        caching.request_pools(target, metadata("fast", flag), batch_size=1)


def test_a_difference_that_may_be_chance_is_no_caching() -> None:
    assert caching.CacheCheck("cnn", Interval(1.5, 1.05, 2.0)).problem is None


def test_the_ceiling_is_measured_on_a_server_that_does_nothing() -> None:
    loads = (ClosedLoop(8), OpenLoop(100.0))
    seen: list[Progress] = []
    closed, opened = calibration.calibrate(loads, (bytes(800),), 2, threading.Event(), CallSettings(), seen.append)
    assert {at.block.load for at in seen} == set(loads)
    assert {at.phase for at in seen} == {"the generator's own ceiling"}
    assert closed.load == ClosedLoop(8)
    assert closed.throughput > 100
    assert 0 < closed.p50 <= closed.p99
    assert opened.throughput == pytest.approx(100, rel=0.3)
