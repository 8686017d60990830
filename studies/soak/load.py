"""The load: calls of all kinds to all servers in an open loop with Poisson arrivals, and their outcomes."""

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
"""How many seconds to wait for the last calls. Every call should end much earlier."""


class Outcome(NamedTuple):
    """The outcome of one call.

    Args:
        kind: The number of the call's kind in KINDS.
        server: The number of the server.
        planned: When the call was planned to begin, in seconds on the monotonic clock.
        delay: Seconds from the planned time until the call began.
        seconds: Seconds from the planned time until the answer.
        error: The status or the exception, if the call did not end as expected; otherwise empty.
        message: The message of the error.
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
    """Call the servers until the end, and wait for the calls in flight.

    Args:
        servers: The servers. Each server gets the same share of the calls.
        answers: The images, and their right answers.
        rate: Calls a second.
        outcomes: The list to which each call's outcome is appended as soon as the call has ended.
        ended: No call begins after this event.
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
    """Make one call. Returns the name of the status or the exception, and the message.

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
        return "no answer", "none when the load ended"
    except Exception as error:
        return type(error).__name__, repr(error)
    return "", ""
