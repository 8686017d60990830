"""With --find-peak, a load test searches for the highest rate at which the server stays within the latency limit."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hangtag.serving.loadtest.measuring.peaks import PRECISION, Peak, peak_search
from hangtag.serving.loadtest.plan.load import OpenLoop
from tests.kit.fake_server import FakeServer
from tests.serving.loadtest.command import QUICK, Loadtest, run_of

CAPACITY = 300.0  # calls a second


def test_the_peak_is_searched_and_confirmed(server: FakeServer, loadtest: Loadtest) -> None:
    """The server refuses calls above its capacity. On a busy machine, the search finds a lower peak or none."""
    lock, tokens, last = threading.Lock(), 20.0, time.monotonic()

    def refuse_too_many(number: int, context: grpc.ServicerContext) -> None:
        nonlocal tokens, last
        with lock:
            now = time.monotonic()
            tokens, last = min(tokens + CAPACITY * (now - last), 20.0), now
            enough = tokens >= 1
            tokens -= enough
        if not enough:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")

    server.behaviour = refuse_too_many
    limits = (*QUICK, "--min-query-count", 100, "--max-duration", 1)
    search = ("--find-peak", "--target-latency", "1s", "--percentile", 90, "--arrivals", "constant")
    measured = loadtest("fast", *limits, *search, "--fail-if", "fast.peak < 2")
    (peak,) = measured.document["peaks"]
    saturated, *confirmation = measured.runs
    assert saturated["load"]["concurrency"] == 64
    lowest = (2 + (100 + 4) ** 0.5) ** 2  # at this rate, at least 100 calls nearly always arrive in a second
    kept = iter([step["valid"] and bool(step["keeps_target"]) for step in peak["steps"]])
    expected = run_search(0.5 * saturated["total"]["throughput"], lambda rate: next(kept), lowest)
    assert expected == (peak["rate"], [step["load"]["rate"] for step in peak["steps"]])
    assert confirmation == ([] if peak["rate"] is None else peak["steps"][-1:])
    assert (peak["rate"] or 0) <= 1.5 * CAPACITY
    assert peak["sentence"] in measured.text
    assert "fast.peak" in measured.document["gates"][0]["sentence"]


def test_a_bound_that_no_rate_keeps_ends_at_the_lowest_that_tells(server: FakeServer, loadtest: Loadtest) -> None:
    limits = (*QUICK, "--max-query-count", 100, "--max-duration", 1)
    search = ("--scenario", "server", "--find-peak", "--target-latency", "1us", "--percentile", 90, "--rate", 100)
    measured = loadtest("fast", "slow", *limits, *search)
    assert measured.exit_code == 1  # no server answers within a microsecond
    for peak in measured.document["peaks"]:
        assert peak["rate"] is None
        assert peak["sentence"].removesuffix(".") in measured.document["problems"]
        *_, last = peak["steps"]
        assert [step["load"]["rate"] for step in peak["steps"]] == [100.0, 79.7]
        # On a busy machine, the generator may be too slow even for these rates, and the report then says so.
        late = any("could not keep up" in problem for problem in last["problems"])
        assert peak["limited_by_generator"] is late
        assert ("could not keep up even at 79.7 calls/s" if late else "request rate of 79.7 calls/s or more") in (
            measured.text
        )


def test_ctrl_c_ends_a_search_that_says_so(server: FakeServer, loadtest: Loadtest) -> None:
    server.behaviour = lambda number, context: os.kill(os.getpid(), signal.SIGINT) if number == 150 else None
    search = ("--find-peak", "--target-latency", "1s", "--percentile", 50, "--rate", 200)
    measured = loadtest("fast", *QUICK, "--min-query-count", 100, *search, "--min-duration", "500ms")
    (peak,) = measured.document["peaks"]
    assert peak["rate"] is None
    assert "the search was stopped before it knew" in peak["sentence"]
    assert measured.document["interrupted"]


def step_at(rate: float, *, kept: bool, late: bool = False, queries: int = 500) -> Any:
    """A run of a search. If ``kept``, p99 is within the limit of 10 ms. If ``late``, the generator was too slow."""
    seconds = (0.001 if kept else 0.1,) * queries
    return run_of(OpenLoop(rate), *seconds, measured={"delayed_queries": late * queries // 2}, target_latency=0.01)


KEPT, MISSED, LATE = step_at(100, kept=True), step_at(200, kept=False), step_at(200, kept=True, late=True)


@pytest.mark.parametrize(
    ("peak", "limited", "sentence"),
    [
        (Peak("cnn", 100.0, (MISSED, KEPT, KEPT)), False, "cnn keeps p99 within 10.0 ms up to 100 calls/s."),
        (Peak("cnn", 100.0, (LATE, KEPT, KEPT)), True, "up to 100 calls/s (the server's peak may be higher"),
        # The server exceeds the latency limit at 200 calls/s, and the generator is too slow only at 300 calls/s.
        (Peak("cnn", 100.0, (step_at(300, kept=True, late=True), MISSED, KEPT, KEPT)), False, "up to 100 calls/s."),
        # The generator was too slow in one run at the peak's rate. This run proves nothing about higher rates.
        (Peak("cnn", 100.0, (step_at(100, kept=True, late=True), MISSED, KEPT, KEPT)), False, "up to 100 calls/s."),
        (Peak("cnn", None, (MISSED, step_at(1, kept=False))), False, "keep p99 within 10.0 ms at any request rate."),
        (Peak("cnn", None, (MISSED,)), False, "at any request rate of 200 calls/s or more"),
        (Peak("cnn", None, (step_at(300, kept=False), LATE)), True, "the generator could not keep up even at 200"),
        (Peak("cnn", None, (step_at(200, kept=True, queries=100),)), False, "no run was long enough"),
        (Peak("cnn", None, (KEPT,), ended=False), False, "the search was stopped before it knew"),
    ],
)
def test_a_search_claims_no_more_than_its_runs_show(peak: Peak, limited: bool, sentence: str) -> None:
    assert peak.limited_by_generator is limited
    assert sentence in peak.sentence


def run_search(first: float, keeps: Callable[[float], bool], lowest: float = 1.0) -> tuple[float | None, list[float]]:
    """Return the peak that a search finds, and all rates tried. ``keeps`` says whether a rate is within the limit."""
    search, tried = peak_search(first, lowest), list[float]()
    try:
        tried.append(next(search))
        while len(tried) < 100:
            tried.append(search.send(keeps(tried[-1])))
    except StopIteration as ended:
        return ended.value, tried
    raise AssertionError(tried)


@given(first=st.floats(0.01, 1e6), edge=st.floats(1.0, 900_000))
def test_the_peak_is_the_edge_up_to_the_precision(first: float, edge: float) -> None:
    peak, tried = run_search(first, lambda rate: rate <= edge)
    assert peak is not None
    # The search tries only rates with three significant digits, so the peak may be up to 1 % too low.
    assert edge / (PRECISION * 1.01) <= peak <= edge
    assert tried.count(peak) >= 2
    assert all(1 <= rate <= 1e6 for rate in tried)
