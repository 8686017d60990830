"""hangtag's load test, perf_analyzer and h2load measure the same figures for the same closed loop.

The server waits 200 ms before each answer, so that the overhead of the tools and of a busy machine is small against it.
`python -m studies loadtest agreement` compares them on the real server, which takes a machine that does nothing else.
"""

import shutil
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from studies.loadtest.tools import PEERS, TOOLS, Figures
from tests.kit.fake_server import FakeServer, running

pytestmark = pytest.mark.slow

ANSWER_SECONDS = 0.2
IN_FLIGHT = 5
SECONDS = 12 * ANSWER_SECONDS


@pytest.fixture(scope="module")
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

    def answer_in_time(number: int, context: grpc.ServicerContext) -> None:
        due = time.monotonic() + ANSWER_SECONDS
        while (remaining := due - time.monotonic()) > 0:
            threading.Event().wait(remaining)

    servicer.behaviour = answer_in_time
    with running(servicer):
        yield servicer.address


@pytest.fixture(scope="module")
def figures(slow_server: str) -> dict[str, Figures]:
    for program in (PEERS / "perf_analyzer", "h2load"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is missing: run 'make test', which installs it")
    return {name: tool(slow_server, "fast", IN_FLIGHT, SECONDS) for name, tool in TOOLS.items()}


@pytest.mark.parametrize("other", ["perf_analyzer", "h2load"])
def test_the_tools_agree_within_ten_percent(figures: dict[str, Figures], other: str) -> None:
    ours, theirs = figures["hangtag"], figures[other]
    assert ours.throughput == pytest.approx(theirs.throughput, rel=0.1)
    assert ours.p50 == pytest.approx(theirs.p50, rel=0.1)


def test_the_figures_are_those_of_the_server(figures: dict[str, Figures]) -> None:
    assert figures["hangtag"].p50 == pytest.approx(ANSWER_SECONDS, rel=0.1)
    assert figures["hangtag"].throughput == pytest.approx(IN_FLIGHT / ANSWER_SECONDS, rel=0.1)
