"""What the transport costs is said of targets that are the same but for the protocol."""

from dataclasses import replace

import pytest

from hangtag.serving.loadtest.comparison.transports import transport_costs
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings
from tests.serving.loadtest.builders import block, results

LOAD = ClosedLoop(4)
GRPC = Target("grpc", "cnn", "127.0.0.1:8001")
REST = Target("rest", "cnn", "http://127.0.0.1:8000")
IN_THE_MODEL = ServerTimings(1000, 500, queue=0.2, compute_input=0.1, compute_infer=0.6, compute_output=0.1)


def measured(*targets: Target, server: ServerTimings | None = IN_THE_MODEL, failed: int = 0) -> Results:
    """1.5 ms a call over gRPC and 2 ms over HTTP, of which 1 ms is the model's."""
    runs = []
    for target in targets:
        times = (0.002 if target.protocol == "HTTP" else 0.0015,) * 1000
        runs.append(Run((block(target.name, LOAD, times, server=server, failed=failed),), batch_size=1))
    return replace(results(*runs), scenario=Scenario(targets, concurrency=(4,)))


def test_the_time_outside_of_the_model_is_the_latency_less_what_the_server_counted() -> None:
    (cost,) = transport_costs(measured(REST, GRPC))
    assert (cost.grpc, cost.http, cost.load) == ("grpc", "rest", LOAD)
    assert cost.grpc_seconds == pytest.approx(0.0005, rel=0.01)
    assert cost.http_seconds == pytest.approx(0.001, rel=0.01)
    assert cost.sentence.startswith("At 4 in flight a call spends 500 µs outside of the model over gRPC (grpc) and 1")


@pytest.mark.parametrize(
    "other",
    [
        replace(GRPC, name="rest", address="127.0.0.1:9001"),
        replace(REST, model="lstm"),
        replace(REST, version="2"),
        replace(REST, method="classify"),
        replace(REST, address="http://10.0.0.1:8000"),
    ],
    ids=["both gRPC", "another model", "another version", "another method", "another machine"],
)
def test_other_targets_are_not_compared(other: Target) -> None:
    assert transport_costs(measured(GRPC, other)) == ()


def test_without_statistics_and_of_an_invalid_run_nothing_is_said() -> None:
    assert transport_costs(measured(GRPC, REST, server=None)) == ()
    assert transport_costs(measured(GRPC, REST, failed=3)) == ()
