"""The soak study: the load that it puts on a server in this process, and the results that it reports."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hangtag.serving.server.process.server import Server
from studies.soak.answers import Answers
from studies.soak.calls import KINDS
from studies.soak.changes import Kill
from studies.soak.connections import Address, Situation
from studies.soak.load import Outcome, load, outcome_of
from studies.soak.run import SAMPLES
from studies.soak.servers import repository
from studies.soak.summary import explained_by
from tests.kit.certificates import Certificates
from tests.kit.server import server
from tests.kit.shipped import MODELS
from tests.kit.waiting import until


def failure(planned: float, seconds: float, *, server: int = 1, error: str = "UNAVAILABLE") -> Outcome:
    return Outcome(0, server, planned, 0.0, seconds, error)


@pytest.mark.parametrize(
    ("outcome", "explained"),
    [
        (failure(99.0, 1.01), True),
        (failure(100.5, 0.01), True),  # sent before the client noticed that the connection was closed
        (failure(99.0, 0.5), False),  # the call ended before the worker died
        (failure(101.5, 0.01), False),  # long after the worker died, another worker takes the calls
        (failure(99.0, 1.01, server=0), False),
        (failure(99.0, 1.01, error="INTERNAL"), False),
        (failure(99.0, 1.01, error="wrong answer"), False),
    ],
)
def test_a_kill_explains_unavailable_of_calls_in_flight_to_its_server(outcome: Outcome, explained: bool) -> None:
    ours, others = explained_by([outcome], [Kill(0, 50.0), Kill(server=1, at=100.0)])
    assert (ours, others) == (([[], [outcome]], []) if explained else ([[], []], [outcome]))
    assert explained_by([outcome], []) == ([], [outcome])


@pytest.fixture(scope="module")
def models() -> Iterator[Path]:
    with repository(MODELS) as folder:
        yield folder


def address(running: Server, ca: Path | None = None) -> Address:
    return Address("any", running.address, running.http_address, ca)


@pytest.mark.slow
def test_all_kinds_of_calls_at_once_are_answered_rightly(models: Path, tmp_path: Path) -> None:
    """As in the study, calls of all kinds go to two servers at the same time."""
    certificates = Certificates(tmp_path)
    outcomes: list[Outcome] = []

    def all_kinds() -> bool:
        return len({(each.kind, each.server) for each in outcomes.copy()}) == len(KINDS) * 2

    async def until_all_kinds(servers: list[Address]) -> None:
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(load(servers, Answers.computed(MODELS, SAMPLES), 200, outcomes, ended))
            await asyncio.to_thread(until, all_kinds, 180)
            ended.set()

    with server(models) as native, server(models, transport="grpc", **certificates.server()) as with_tls:
        asyncio.run(until_all_kinds([address(native), address(with_tls, certificates.ca())]))
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
            situation = await Situation.open(at, stack, replace(answers, outputs=spoiled), random.Random(0), {})
            return [(await outcome_of(kind, situation))[0] for kind in KINDS if not kind.fails]

    with server(models) as running:
        assert {*asyncio.run(errors(address(running)))} == {"wrong answer"}
