"""How the server benchmark runs a server and puts loads on it, each for a moment."""

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import click
import pytest

from hangtag.protos import inference_pb2 as pb
from studies.server import h2load
from studies.server.h2load import Load
from studies.server.peers.tls import with_tls
from studies.server.process import Launch, Served, hangtag_serve, served
from studies.server.scenarios import Bench, _recovery, closed_loop
from studies.server.systems import EARLIER, launches

pytestmark = pytest.mark.slow

NEEDS_H2LOAD = pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load (Debian: nghttp2-client)")


def test_a_body_is_grpcs_prefix_and_the_message() -> None:
    body = h2load.message("lstm", 3)
    assert body[0] == 0
    assert int.from_bytes(body[1:5], "big") == len(body) - 5
    request = pb.ModelInferRequest.FromString(body[5:])
    assert (request.model_name, list(request.inputs[0].shape)) == ("lstm", [3, 28, 28])


OUTPUT = "finished in 2.00s, 5.00 req/s, 1KB/s\nrequests: 10 total, 10 started, {} done, {} succeeded, 0 failed"


def test_h2loads_output_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("2000000\t200\t4000\n1000000\t200\t1000\n1500000\t200\t2000\n")
    outcome = h2load._read(OUTPUT.format(10, 10), log)
    assert outcome.per_second == 5
    assert outcome.starts == [0, 0.5, 1]
    assert outcome.latencies == [0.001, 0.002, 0.004]
    assert outcome.p50_ms == 2
    with pytest.raises(click.ClickException, match="not all answered"):
        h2load._read(OUTPUT.format(9, 9), log)


def test_recovery_is_when_ten_in_a_row_take_the_usual_time() -> None:
    latencies = [0.1] * 5 + [0.001] * 9 + [0.1] + [0.001] * 20
    outcome = h2load.Outcome(1, latencies, [place / 10 for place in range(len(latencies))])
    assert _recovery(outcome, usual_ms=2) == 1.5
    assert _recovery(h2load.Outcome(1, [0.1] * 20, [*range(20)]), usual_ms=2) == 19


@NEEDS_H2LOAD
@pytest.mark.parametrize("system", ["native", "grpc", "tls"])
def test_a_closed_loop_is_put_on_a_real_server(lstm_and_cnn: Path, system: str) -> None:
    with ExitStack() as stack:
        launch = launches([system], lstm_and_cnn, EARLIER, stack)[system]
        server = stack.enter_context(served(launch))
        assert server.url.startswith("https:" if system == "tls" else "http:")
        assert server.seconds_to_ready > 0
        assert server.pss_mb() > 10
        closed = Bench(server, seconds=0.1).closed("lstm", Load(1, clients=2, streams=2, samples=3))
        assert closed["p99_ms"] >= closed["p50_ms"] > 0
        assert closed["samples_per_s"] > 30
        assert closed["mean_batch"] >= 3


@NEEDS_H2LOAD
def test_open_loops_are_put_on_a_real_server(lstm_and_cnn: Path) -> None:
    with with_tls(lstm_and_cnn) as launch, served(launch) as server:
        bench = Bench(server, seconds=0.1)
        assert bench.poisson("lstm", 400, seed=1)["answered"] == 1
        overloaded = bench.overload("cnn")
        assert overloaded["offered_per_s"] > overloaded["capacity_per_s"] > 0
        assert 0 <= overloaded["in_time_share"] * overloaded["capacity_per_s"] < overloaded["offered_per_s"]
        assert overloaded["gained_mb"] >= 0


@pytest.mark.parametrize(
    ("name", "shape"), [("1", (1, 1, 1)), ("4", (4, 1, 1)), ("64", (16, 4, 1)), ("batch", (2, 1, 64))]
)
def test_a_closed_loop_has_its_calls_in_flight(name: str, shape: tuple[int, int, int]) -> None:
    load = closed_loop(name)
    assert (load.clients, load.streams, load.samples) == shape


@pytest.mark.parametrize(("count", "share"), [(0, 0.0), (1, 0.5), (2, 0.6), (5, 0.9)])
def test_the_highest_rate_is_searched_by_halves(count: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [0.5, 0.6, 0.7, 0.8, 0.9]

    rates: list[float] = []

    def poisson(_: Bench, model: str, rate: float, seed: int) -> dict[str, float]:
        rates.append(rate)
        return {"p99_ms": 14 if shares.index(round(rate / 100, 1)) < count else 16, "answered": 1}

    monkeypatch.setattr(Bench, "poisson", poisson)
    assert Bench(cast(Served, None), 1).highest_rate("cnn", 100, shares) == {"share": share}
    assert len(rates) <= 3


@NEEDS_H2LOAD
def test_a_refused_call_is_not_counted_as_answered(lstm_and_cnn: Path) -> None:
    with (
        served(hangtag_serve(lstm_and_cnn)) as server,
        pytest.raises(click.ClickException, match="0 of 11 calls for lstm"),
    ):
        Bench(server, seconds=0.001).closed("lstm", Load(1, samples=65))  # more than a batch takes


def test_a_server_that_does_not_start_is_reported_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"did not start \(exit code 1\):(.|\n)*none"):
        Served(hangtag_serve(tmp_path / "none"))
    with pytest.raises(click.ClickException, match="nothing cannot be run"):
        Served(Launch(("nothing",), "ready"))


def test_a_server_that_ends_with_an_error_is_reported() -> None:
    script = "import signal, sys; print('ready at 127.0.0.1:1', file=sys.stderr, flush=True); signal.pause()"
    server = Served(Launch((sys.executable, "-c", script), r"ready at (\S+)"))
    with pytest.raises(click.ClickException, match="did not stop as it should: exit code -15"):
        server.close()
