"""The generator's own process: the interpreter lock of the one that reports must not be part of what is measured."""

import gc
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from serving.credentials import Credentials
from serving.loadtest.errors import GeneratorError
from serving.loadtest.generator import Block, Generator, Snapshot
from serving.loadtest.recorder import BlockResult

CONNECT_TIMEOUT = 5.0
# How soon (seconds) a stop asked for in this process is passed on.
POLL_INTERVAL = 0.1
# A thread that wants the interpreter gets it after this long (Python's default is 5 ms: a late send).
SWITCH_INTERVAL = 0.0005
STOP = "stop"


class GeneratorProcess:
    """A generator in a spawned process, used as a context manager. `run` blocks, and ends early once `stop` is set."""

    def __init__(
        self,
        address: str,
        channels: int,
        deadline: float,
        requests: dict[str, tuple[bytes, ...]],
        stop: threading.Event,
        credentials: Credentials = Credentials(),  # noqa: B008 - it cannot change
    ) -> None:
        """See Generator."""
        # Spawned, not forked: gRPC's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, address, channels, deadline, requests, credentials),
            name="generator",
            daemon=True,
        )
        self._theirs = theirs
        self._stop = stop

    def __enter__(self) -> Self:
        self._process.start()
        # Only the child holds its end now, so that its death is the end of this one.
        self._theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join(timeout=2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def run(self, block: Block, on_progress: Callable[[Snapshot], None]) -> BlockResult:
        """Run one block. Raises GeneratorError when the process ended."""
        try:
            self._connection.send(block)
            asked_to_stop = False
            while True:
                if self._stop.is_set() and not asked_to_stop:
                    self._connection.send(STOP)
                    asked_to_stop = True
                if not self._connection.poll(POLL_INTERVAL):
                    continue
                message = self._connection.recv()
                if isinstance(message, BlockResult):
                    return message
                on_progress(message)
        except (EOFError, OSError) as error:
            self._process.join(timeout=2.0)
            raise GeneratorError(
                f"the process that generates the load ended unexpectedly (exit code {self._process.exitcode}); "
                "what it wrote to stderr says why"
            ) from error


def _serve(
    connection: Connection,
    address: str,
    channels: int,
    deadline: float,
    requests: dict[str, tuple[bytes, ...]],
    credentials: Credentials,
) -> None:
    """The process's main function: blocks in, snapshots and results out, until the other end closes."""
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_INTERVAL)
    generator = Generator(address, channels, deadline, requests, credentials)
    generator.connect(CONNECT_TIMEOUT)
    # Nothing that lives by now is garbage: collections need not look at it again.
    gc.freeze()

    def keep_going(snapshot: Snapshot) -> bool:
        connection.send(snapshot)
        return not (connection.poll() and connection.recv() == STOP)

    try:
        while True:
            block = connection.recv()
            if block != STOP:  # A stop that crossed with a block's end.
                connection.send(generator.run(block, keep_going))
    except (EOFError, OSError):
        generator.close()
