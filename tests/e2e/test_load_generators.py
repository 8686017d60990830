"""hangtag's load test, perf_analyzer and h2load measure the same figures for the same closed loop.

The server waits 200 ms before each answer, so that the overhead of the tools and of a busy machine is small against it.
`python -m studies loadtest run` compares them on the real server, which takes a machine that does nothing else.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hangtag.protos import inference_pb2 as pb
from studies.loadtest.tools import PEERS, TOOLS
from tests.kit.fake_server import FakeServer, running
from tests.kit.waiting import pass_time

ANSWER_SECONDS = 0.2
IN_FLIGHT = 5
SECONDS = 12 * ANSWER_SECONDS


@pytest.fixture
def slow_server() -> Iterator[str]:
    """A server that answers each call after ANSWER_SECONDS and has the ModelConfig that perf_analyzer requests."""
    servicer = FakeServer()
    config = pb.ModelConfig(
        name="fast",
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=8,
        input=[pb.ModelInput(name="image", data_type=pb.TYPE_UINT8, dims=[28, 28])],
        output=[pb.ModelOutput(name="probabilities", data_type=pb.TYPE_FP32, dims=[10])],
    )
    servicer.configs = {"fast": config}
    servicer.behaviour = lambda _number, _context: pass_time(ANSWER_SECONDS)
    with running(servicer):
        yield servicer.address


def test_the_tools_agree_within_ten_percent_with_each_other_and_with_the_server(slow_server: str) -> None:
    """They measure at the same time: the server waits and does not compute."""
    for program in (PEERS / "perf_analyzer", "h2load"):
        assert shutil.which(program) is not None, f"{program} is missing: run 'make test', which installs it"
    with ThreadPoolExecutor(len(TOOLS)) as threads:
        measured = {name: threads.submit(tool, slow_server, "fast", IN_FLIGHT, SECONDS) for name, tool in TOOLS.items()}
        figures = {name: future.result() for name, future in measured.items()}
    ours = figures["hangtag"]
    assert ours.p50 == pytest.approx(ANSWER_SECONDS, rel=0.1)
    assert ours.throughput == pytest.approx(IN_FLIGHT / ANSWER_SECONDS, rel=0.1)
    for name in ("perf_analyzer", "h2load"):
        assert ours.p50 == pytest.approx(figures[name].p50, rel=0.1), name
        assert ours.throughput == pytest.approx(figures[name].throughput, rel=0.1), name
