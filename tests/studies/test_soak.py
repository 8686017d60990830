"""The soak study: its load on a server of this process, and the figures that it reports."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hangtag.serving.server.process.server import Server
from studies.soak import load
from studies.soak.answers import Answers
from studies.soak.calls import KINDS
from studies.soak.connections import Address, Connections
from studies.soak.load import Outcome, outcome_of
from studies.soak.run import SAMPLES
from studies.soak.servers import repository
from studies.soak.situation import Situation
from studies.soak.summary import slope
from studies.soak.tally import Kill, Tally
from tests.kit.certificates import Certificates
from tests.kit.forkserver import CONTEXT
from tests.kit.server import server
from tests.kit.shipped import MODELS
from tests.kit.waiting import until


def test_a_slope_and_its_interval_are_those_of_scipy() -> None:
    minutes = np.arange(0.0, 60.0)
    noise = np.random.default_rng(0).normal(0, 0.5, 60)
    noise[1::2] -= 1.0  # Neighbours differ, so that the interval is not widened.
    values = 100 + minutes / 60 * 3 + noise
    fitted = stats.linregress(minutes / 60, values)
    half = stats.t.ppf(0.975, 58) * fitted.stderr
    assert slope(minutes, values) == pytest.approx((fitted.slope, fitted.slope - half, fitted.slope + half))
    assert slope(minutes[:2], values[:2]) is None


def test_a_slopes_interval_holds_the_true_slope_also_where_memory_moves_in_steps() -> None:
    chance = np.random.default_rng(1)
    minutes = np.arange(0.0, 40.0)
    held = 0
    for _ in range(400):
        values = np.zeros(40)
        for at in range(1, 40):  # each minute's memory is half that of the minute before, and half chance
            values[at] = 0.5 * values[at - 1] + chance.normal()
        _fitted, low, high = slope(minutes, values) or (0.0, 0.0, 0.0)
        held += low <= 0 <= high
    assert 0.88 < held / 400 < 0.99


def failure(planned: float, seconds: float, *, server: int = 1, error: str = "UNAVAILABLE") -> Outcome:
    return Outcome(0, server, planned, 0.0, seconds, error)


@pytest.mark.parametrize(
    ("outcome", "explained"),
    [
        (failure(99.0, 1.01), True),
        (failure(100.5, 0.01), True),  # sent to a connection that was not known to be closed
        (failure(99.0, 0.5), False),  # it ended before
        (failure(101.5, 0.01), False),  # by then the other worker should have it
        (failure(99.0, 1.01, server=0), False),
        (failure(99.0, 1.01, error="INTERNAL"), False),
        (failure(99.0, 1.01, error="wrong answer"), False),
    ],
)
def test_a_kill_explains_unavailable_of_calls_in_flight_to_its_server(outcome: Outcome, explained: bool) -> None:
    tally = Tally()
    tally.add([outcome])
    ours, others = tally.explained_by([Kill(0, 50.0), Kill(server=1, at=100.0)])
    assert (ours, others) == (([[], [outcome]], []) if explained else ([[], []], [outcome]))
    assert tally.explained_by([]) == ([], [outcome])


CALLS_A_SECOND = 100.0
SECONDS = 60.0


@pytest.fixture(scope="module")
def models() -> Iterator[Path]:
    with repository(MODELS) as folder:
        yield folder


def address(running: Server, ca: Path | None = None) -> Address:
    return Address("any", running.address, running.http_address, None if ca is None else str(ca))


@pytest.mark.slow
def test_all_kinds_of_calls_at_once_are_answered_rightly(models: Path, tmp_path: Path) -> None:
    """As in the study: one process makes calls of all kinds to two servers, and waits for no answer before the next."""
    certificates = Certificates(tmp_path)
    ours, theirs = CONTEXT.Pipe(duplex=False)
    stop = CONTEXT.Event()
    outcomes: list[Outcome] = []
    with (
        server(models, transport="native") as native,
        server(models, transport="grpc", **certificates.server()) as grpc_with_tls,
        ours,
    ):
        servers = [address(native), address(grpc_with_tls, certificates.ca())]
        caller = CONTEXT.Process(target=load.run, args=(servers, MODELS, SAMPLES, CALLS_A_SECOND, 0, theirs, stop))

        def every_kind_was_called() -> bool:
            assert ours.poll(SECONDS)
            outcomes.extend(ours.recv() or [])
            return len({(each.kind, each.server) for each in outcomes}) == len(KINDS) * len(servers)

        caller.start()
        theirs.close()  # so that reading ends with the process
        try:
            until(every_kind_was_called, 3 * SECONDS)
        finally:
            stop.set()
        with suppress(EOFError):
            while ours.poll(SECONDS):
                outcomes += ours.recv()
        caller.join(SECONDS)
    assert caller.exitcode == 0
    assert [(KINDS[each.kind].name, each.error, each.message) for each in outcomes if each.error] == []


@pytest.mark.slow
def test_a_wrong_answer_to_any_kind_of_call_is_seen(models: Path) -> None:
    answers = Answers.computed(MODELS, SAMPLES)
    spoiled = {
        model: {name: array + np.float32(0.01) for name, array in arrays.items()}
        for model, arrays in answers.outputs.items()
    }

    async def errors(at: Address) -> list[str]:
        async with AsyncExitStack() as stack:
            connections = await Connections.open(at, stack)
            situation = Situation(connections, replace(answers, outputs=spoiled), random.Random(0))
            return [(await outcome_of(kind, situation))[0] for kind in KINDS if not kind.fails]

    with server(models) as running:
        assert {*asyncio.run(errors(address(running)))} == {"wrong answer"}
