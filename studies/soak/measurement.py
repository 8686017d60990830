"""Runs the soak: client processes, changes and samples, until the time is over or somebody interrupts it."""

import multiprocessing
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import click

from hangtag.serving.loadtest.machine.processes import cpu_seconds, family
from studies.soak import load, processes
from studies.soak.changes import Changes
from studies.soak.processes import Sample
from studies.soak.servers import Server
from studies.soak.tally import Tally

CLIENTS = 2
"""Client processes."""
_TICK = 0.25
_CONTEXT = multiprocessing.get_context("spawn")  # gRPC's threads do not survive a fork


@dataclass(frozen=True)
class Plan:
    """How long, how much and how often. All times in seconds.

    Args:
        seconds: Of the load.
        rate: Calls a second, of all clients together.
        version_seconds: Between two new versions.
        kill_seconds: Between two killed workers.
        sample_seconds: Between two samples of the processes.
    """

    seconds: float
    rate: float
    version_seconds: float = 60.0
    kill_seconds: float = 300.0
    sample_seconds: float = 10.0


class Measurement:
    """What is measured. `run` fills it; a KeyboardInterrupt ends the load early and is not raised."""

    def __init__(self, plan: Plan, servers: Sequence[Server], repository: Path, models: Path, samples: Path) -> None:
        """Start nothing yet.

        Args:
            plan: How long, how much and how often.
            servers: Get the load.
            repository: Of the servers; new versions are published in it.
            models: Where it was copied from. The clients compute by it what is right.
            samples: The images, as for `Answers.computed`.
        """
        self.plan = plan
        self.servers = servers
        self.tally = Tally()
        self.changes = Changes(repository, servers)
        self.samples: dict[tuple[int, str], list[Sample]] = defaultdict(list)
        """By the server's number and the process's name."""
        self.began = self.ended = 0.0
        """On the monotonic clock in seconds."""
        self.server_cpus = self.client_cpus = 0.0
        """Processors that the servers and the clients were busy with, on average."""
        self.models, self.image_file = models, samples
        self._stop = threading.Event()

    def run(self, on_progress: Callable[[], None]) -> None:
        """Put the load on. on_progress: called several times a second.

        Raises:
            click.ClickException: A client process ended before its time.
        """
        stop = _CONTEXT.Event()
        clients = [_Client(self, number, stop) for number in range(CLIENTS)]
        try:
            for client in clients:
                client.started.wait()
            self.began = time.monotonic()
            cpu = [self._server_cpu(), sum(client.cpu() for client in clients)]
            periodic = [
                threading.Thread(target=self._repeat, args=each)
                for each in (
                    (self._sample, self.plan.sample_seconds, 0.0),
                    (self.changes.publish, self.plan.version_seconds, self.plan.version_seconds),
                    (self.changes.kill, self.plan.kill_seconds, self.plan.kill_seconds),
                )
            ]
            for thread in periodic:
                thread.start()
            with suppress(KeyboardInterrupt):
                while time.monotonic() < self.began + self.plan.seconds and all(each.alive for each in clients):
                    on_progress()
                    time.sleep(_TICK)
            failed = [client.number for client in clients if not client.alive]
            self._stop.set()
            for thread in periodic:
                thread.join()
            self.ended = time.monotonic()
            self.server_cpus = (self._server_cpu() - cpu[0]) / self.seconds
            self.client_cpus = (sum(client.cpu() for client in clients) - cpu[1]) / self.seconds
        finally:
            self._stop.set()
            stop.set()
            for client in clients:
                client.join()
        if failed:
            raise click.ClickException(f"client {failed[0]} ended before its time; its traceback is above.")

    @property
    def seconds(self) -> float:
        """Of the load, so far."""
        return (self.ended or time.monotonic()) - self.began

    def _server_cpu(self) -> float:
        return sum(server.process.cpu_seconds() for server in self.servers)

    def _repeat(self, act: Callable[[], None], period: float, first: float) -> None:
        due = self.began + first
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            act()
            due += period

    def _sample(self) -> None:
        at = time.monotonic()
        for number, server in enumerate(self.servers):
            for name, sample in processes.samples(server.process.pid, at):
                self.samples[number, name].append(sample)


class _Client:
    """A client process, and the thread that reads what it sends."""

    def __init__(self, measurement: Measurement, number: int, stop: "multiprocessing.synchronize.Event") -> None:
        self.number = number
        self.started = threading.Event()
        """Set when its connections are open, or when it has ended."""
        self._tally = measurement.tally
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(
            target=load.run,
            args=(
                [server.address for server in measurement.servers],
                measurement.models,
                measurement.image_file,
                measurement.plan.rate / CLIENTS,
                number,
                theirs,
                stop,
            ),
            daemon=True,
        )
        self._process.start()
        theirs.close()  # Only the client holds its end now, so that reading fails when it ends.
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def cpu(self) -> float:
        assert self._process.pid
        return cpu_seconds(family(self._process.pid))

    def join(self) -> None:
        """Wait until it has sent everything and ended."""
        self._reader.join()
        self._process.join()

    def _read(self, connection: Connection) -> None:
        with suppress(EOFError):
            while True:
                outcomes = connection.recv()
                self.started.set()
                self._tally.add(outcomes or [])
        self.started.set()
