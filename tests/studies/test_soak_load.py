"""The load of the soak study on a server of this process: every kind of call is answered as it should be."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hangtag.serving.server.process.server import Server
from studies.soak import load
from studies.soak.answers import Answers
from studies.soak.calls import KINDS
from studies.soak.connections import Address, Connections
from studies.soak.load import Outcome, outcome_of
from studies.soak.run import SAMPLES
from studies.soak.servers import repository
from studies.soak.situation import Situation
from tests.kit.certificates import Certificates
from tests.kit.forkserver import CONTEXT
from tests.kit.server import server
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow

CALLS_A_SECOND = 100.0
SECONDS = 60.0


@pytest.fixture(scope="module")
def models() -> Iterator[Path]:
    with repository(MODELS) as folder:
        yield folder


def address(running: Server, ca: Path | None = None) -> Address:
    return Address("any", running.address, running.http_address, None if ca is None else str(ca))


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
        caller.start()
        theirs.close()  # so that reading ends with the process
        try:
            while len({(each.kind, each.server) for each in outcomes}) < len(KINDS) * len(servers):
                assert ours.poll(SECONDS)
                outcomes += ours.recv() or []
        finally:
            stop.set()
        with suppress(EOFError):
            while ours.poll(SECONDS):
                outcomes += ours.recv()
        caller.join(SECONDS)
    assert caller.exitcode == 0
    assert [(KINDS[each.kind].name, each.error, each.message) for each in outcomes if each.error] == []


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
