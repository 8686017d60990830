"""A client process: an open loop of calls to all servers, whose outcomes it sends to the study as they come."""

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx2

from hangtag.serving.client import ClientError
from studies.soak.answers import Answers, WrongAnswerError
from studies.soak.calls import KINDS, Kind
from studies.soak.connections import Address, Connections
from studies.soak.situation import Callers, Situation

_SEND_SECONDS = 1.0
_END_SECONDS = 60.0
"""More than any call may take."""


@dataclass(frozen=True)
class Outcome:
    """One call.

    Args:
        kind: Its number among KINDS.
        server: Its number among the servers.
        planned: When it was to begin, on the monotonic clock in seconds, which all processes of the machine share.
        delay: Seconds from then to when the client began it.
        seconds: Seconds from when it was to begin to the answer.
        error: The status, or the exception, where it did not end as it should; empty where it did.
        message: Of the error.
    """

    kind: int
    server: int
    planned: float
    delay: float
    seconds: float
    error: str = ""
    message: str = ""


def run(
    servers: Sequence[Address], models: Path, samples: Path, rate: float, seed: int, out: Connection, stop: Event
) -> None:
    """Make calls until `stop`, then wait for those in flight. The process's entry.

    Args:
        servers: Each gets the same share of the calls.
        models: The model repository that computes what is right.
        samples: The images, as for `Answers.computed`.
        rate: Calls a second, with Poisson arrivals.
        seed: Of the choices.
        out: Gets lists of Outcome; None once the connections are open; and the end of the file.
        stop: Ends the load.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the study decides.
    answers = Answers.computed(models, samples)
    asyncio.run(_Load(servers, answers, rate, seed, out, stop).run())
    out.close()


class _Load:
    def __init__(
        self, servers: Sequence[Address], answers: Answers, rate: float, seed: int, out: Connection, stop: Event
    ) -> None:
        self._servers = servers
        self._answers = answers
        self._rate = rate
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._out = out
        self._stop = stop
        self._callers = Callers()
        self._outcomes: list[Outcome] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            connections = [await Connections.open(server, stack) for server in self._servers]
            _ = self._answers.pngs  # before the clock starts
            self._out.send(None)
            sent = planned = time.monotonic()
            weights = [kind.weight for kind in KINDS]
            while not self._stop.is_set():
                planned += self._random.expovariate(self._rate)
                await asyncio.sleep(max(0.0, planned - time.monotonic()))
                kind = self._random.choices(range(len(KINDS)), weights)[0]
                server = self._random.randrange(len(connections))
                situation = Situation(connections[server], self._answers, self._random, self._callers)
                task = asyncio.create_task(self._make(kind, server, planned, situation))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
                if time.monotonic() - sent > _SEND_SECONDS:
                    sent = time.monotonic()
                    self._send()
            if self._calls:
                _, unanswered = await asyncio.wait(self._calls, timeout=_END_SECONDS)
                for task in unanswered:
                    task.cancel()
                await asyncio.gather(*unanswered, return_exceptions=True)
            self._send()

    async def _make(self, kind: int, server: int, planned: float, situation: Situation) -> None:
        delay = time.monotonic() - planned
        error, message = await outcome_of(KINDS[kind], situation)
        self._outcomes.append(Outcome(kind, server, planned, delay, time.monotonic() - planned, error, message))

    def _send(self) -> None:
        self._out.send(self._outcomes)
        self._outcomes = []


async def outcome_of(kind: Kind, situation: Situation) -> tuple[str, str]:
    """Make one call. Returns the name of the status or the exception, and its message; empty if all is right."""
    try:
        await kind.call(situation)
    except ClientError as error:
        return error.code.name, str(error)
    except httpx2.TransportError as error:
        return "UNAVAILABLE", repr(error)
    except WrongAnswerError as error:
        return "wrong answer", str(error)
    except asyncio.CancelledError:
        return "no answer", f"none within {_END_SECONDS:g} s"
    except Exception as error:
        return type(error).__name__, repr(error)
    return "", ""
