"""A client process: makes calls of all kinds to all servers in an open loop, and writes the outcomes as lines of JSON.

When its standard input ends, the process waits for the calls in flight, and ends.
"""

import asyncio
import json
import random
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import httpx2

from hangtag.serving.client import ClientError
from studies.soak.answers import Answers, WrongAnswerError
from studies.soak.calls import KINDS, Kind
from studies.soak.connections import Address, Connections, Situation
from studies.worker import Reporter

_END_SECONDS = 60.0
"""Longer than any call may take, in seconds."""
_READY = "ready"


class Outcome(NamedTuple):
    """One call.

    Args:
        kind: The number of the call's kind in KINDS.
        server: The number of the server.
        planned: When the call was planned to begin, in seconds on the monotonic clock, which all processes of the
            machine share.
        delay: Seconds from the planned time until the client began the call.
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


class Client(Reporter):
    """A running client process. After construction, it has connections to all servers. `close` waits for its calls."""

    def __init__(self, servers: Sequence[Address], models: Path, samples: Path, rate: float, seed: int) -> None:
        """Start the process.

        Args:
            servers: Each gets the same share of the calls.
            models: The model repository from which the right answers are computed.
            samples: The images, as for `Answers.computed`.
            rate: Calls a second, with Poisson arrivals.
            seed: The seed of random choices.
        """
        self.outcomes: list[Outcome] = []
        """The outcomes of the calls that have ended."""
        arguments = json.dumps([servers, str(models.resolve()), str(samples.resolve()), rate, seed])
        command = (sys.executable, "-m", "studies.soak.load", arguments)
        super().__init__(command, lambda line: self.outcomes.append(Outcome(*line)), says_ready=True)


async def _load(servers: Sequence[Address], answers: Answers, rate: float, seed: int) -> None:
    chooser, weights = random.Random(seed), [kind.weight for kind in KINDS]  # noqa: S311 - no secret
    members: dict[str, str] = {}
    calls: set[asyncio.Task[None]] = set()
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        connections = [await Connections.open(server, stack) for server in servers]
        _write(_READY)
        threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True).start()
        planned = time.monotonic()
        while not ended.is_set():
            planned += chooser.expovariate(rate)
            await asyncio.sleep(max(0.0, planned - time.monotonic()))
            kind, server = chooser.choices(range(len(KINDS)), weights)[0], chooser.randrange(len(connections))
            situation = Situation(connections[server], answers, chooser, members)
            task = asyncio.create_task(_call(KINDS[kind], Outcome(kind, server, planned, 0.0, 0.0), situation))
            calls.add(task)
            task.add_done_callback(calls.discard)
        if calls:
            _, unanswered = await asyncio.wait(calls, timeout=_END_SECONDS)
            for task in unanswered:
                task.cancel()
            await asyncio.gather(*unanswered, return_exceptions=True)


async def _call(kind: Kind, planned: Outcome, situation: Situation) -> None:
    delay = time.monotonic() - planned.planned
    error, message = await outcome_of(kind, situation)
    seconds = time.monotonic() - planned.planned
    _write(planned._replace(delay=delay, seconds=seconds, error=error, message=message[:300]))


async def outcome_of(kind: Kind, at: Situation) -> tuple[str, str]:
    """Make one call. Returns the name of the status or the exception, and its message; both are empty if all is
    right."""
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


def _write(line: object) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201


def _main() -> None:
    servers, models, samples, rate, seed = json.loads(sys.argv[1])
    answers = Answers.computed(Path(models), Path(samples))
    _ = answers.pngs  # before the clock starts
    asyncio.run(_load([Address(*server) for server in servers], answers, rate, seed))


if __name__ == "__main__":
    _main()
