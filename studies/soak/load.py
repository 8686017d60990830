"""The load: calls of all kinds to all servers, in an open loop with Poisson arrivals, and the outcomes of the calls."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

import httpx2

from hangtag.serving.client import ClientError
from studies.soak.answers import Answers, WrongAnswerError
from studies.soak.calls import KINDS, Kind
from studies.soak.connections import Address, Situation

_END_SECONDS = 60.0
"""The time limit in seconds for the last calls, which should end much earlier."""


class Outcome(NamedTuple):
    """The outcome of one call.

    Args:
        kind: The index of the call's kind in KINDS.
        server: The server's index.
        planned: The planned beginning of the call, in seconds on the monotonic clock.
        delay: The seconds from the planned beginning until the call began.
        seconds: The seconds from the planned beginning until the answer.
        error: The name of the status or exception if the call did not end as expected; otherwise empty.
        message: The error's message.
    """

    kind: int
    server: int
    planned: float
    delay: float
    seconds: float
    error: str = ""
    message: str = ""


async def load(
    servers: Sequence[Address], answers: Answers, rate: float, outcomes: list[Outcome], ended: asyncio.Event
) -> None:
    """Call the servers until the event `ended`, and wait for the calls in flight.

    Args:
        servers: The servers, which get equal shares of the calls.
        answers: The images and their right answers.
        rate: Calls a second.
        outcomes: The list to which the function appends each call's outcome when the call ends.
        ended: The event after which no call begins.
    """
    chooser, weights = random.Random(0), [kind.weight for kind in KINDS]  # noqa: S311  no secret
    members: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        situations = [await Situation.open(server, stack, answers, chooser, members) for server in servers]

        async def call(kind: int, server: int, planned: float) -> None:
            delay = time.monotonic() - planned
            error, message = await outcome_of(KINDS[kind], situations[server])
            outcomes.append(Outcome(kind, server, planned, delay, time.monotonic() - planned, error, message[:300]))

        calls: set[asyncio.Task[None]] = set()
        planned = time.monotonic()
        while not ended.is_set():
            planned += chooser.expovariate(rate)
            await asyncio.sleep(max(0.0, planned - time.monotonic()))
            kind, server = chooser.choices(range(len(KINDS)), weights)[0], chooser.randrange(len(servers))
            calls.add(task := asyncio.create_task(call(kind, server, planned)))
            task.add_done_callback(calls.discard)
        if calls:
            _, unanswered = await asyncio.wait(calls, timeout=_END_SECONDS)
            for task in unanswered:
                task.cancel()
            await asyncio.gather(*unanswered)


async def outcome_of(kind: Kind, at: Situation) -> tuple[str, str]:
    """Make one call, and return the name and the message of the status or exception.

    The name and the message are empty if the call ended as expected.
    """
    try:
        await kind.call(at)
    except ClientError as error:
        return error.code.name, str(error)
    except httpx2.TransportError as error:
        return "UNAVAILABLE", repr(error)
    except WrongAnswerError as error:
        return "wrong answer", str(error)
    except asyncio.CancelledError:
        return "no answer", "the load ended before the answer"
    except Exception as error:
        return type(error).__name__, repr(error)
    return "", ""
