"""Runs a whole load test, from connecting to the targets to the results, which contain everything that a report
needs."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from hangtag.printable import counted
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest import LoadTestError, machine_check, units
from hangtag.serving.loadtest.generator.channels import RequestPool
from hangtag.serving.loadtest.generator.generator_process import channel_kind, connected
from hangtag.serving.loadtest.measuring import peaks
from hangtag.serving.loadtest.measuring.accuracy import measure as measure_accuracy
from hangtag.serving.loadtest.measuring.interleaving import ServerCounts, Session
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.measuring.peaks import Peak
from hangtag.serving.loadtest.plan.load import Load, sort_key
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.record import shown, stored
from hangtag.serving.loadtest.samples.library import load
from hangtag.serving.loadtest.statistics.intervals import Accuracy
from hangtag.serving.loadtest.sut import Description, Server, open_probes


@dataclass(frozen=True)
class Results:
    """Everything that a load test measured, with the circumstances of the test."""

    targets: tuple[Description, ...] = stored("The targets, in the order of the command line.")
    scenario: Scenario = stored("Every setting, including defaults.")
    runs: tuple[Run, ...] = stored("The runs, sorted by load and then by target.")
    interrupted: bool = stored()
    started: str = stored("The time at which the test began (ISO 8601, UTC).")
    duration: float = stored()
    command: str = stored()
    environment: dict[str, str] = stored(default_factory=dict)
    peaks: tuple[Peak, ...] = stored(default=())

    @shown()
    def server(self) -> Server:
        """The server of the first target."""
        return self.targets[0].server

    @shown()
    def samples(self) -> dict[str, str]:
        """The source of the samples of each target."""
        return {target.name: target.samples for target in self.targets}

    @property
    def accuracies(self) -> dict[str, Accuracy]:
        return {target.name: target.accuracy for target in self.targets if target.accuracy is not None}

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        """The loads that ran. Closed loops come before open loops."""
        return tuple(sorted(dict.fromkeys(run.load for run in self.runs), key=sort_key))

    def under(self, load: Load | None) -> tuple[Run, ...]:
        """Return the runs under this load, in the order of the targets."""
        return tuple(run for run in self.runs if run.load == load)

    @property
    def generator_share(self) -> str:
        """A sentence about the generator's share of the server's CPUs; empty if a server is on another machine."""
        if not (self.runs and self.scenario.is_loopback):
            return ""
        busiest = max(run.total.generator_cpu for run in self.runs)
        return (
            "The generator shared this machine's CPUs with the server. The generator's busiest process used up to "
            f"{busiest:.0%} of a CPU."
        )

    @property
    def others_sentence(self) -> str:
        """A sentence about the share of this machine's CPUs that other programs took; empty if there are no runs."""
        if not self.runs:
            return ""
        shares = [run.total.others_cpu_share for run in self.runs if run.total.others_cpu_share is not None]
        if not shares:
            return (
                "The share of this machine's CPUs that other programs took is unknown, because each block took less "
                f"than {units.duration(machine_check.SHORTEST)} (raise --min-duration), or the server's processes "
                "cannot be distinguished from other programs."
            )
        return f"Other programs took up to {max(shares):.0%} of this machine's CPUs during a run."

    @shown("problems")
    def invalid(self) -> tuple[str, ...]:
        """The reasons why the test as a whole is not valid, without the reasons of single runs."""
        sentences = ["The test was interrupted, so only a part of the test was measured"] * self.interrupted
        sentences += ["Nothing was measured"] * (not self.runs)
        sentences += [f"{name}: {accuracy.invalid}" for name, accuracy in self.accuracies.items() if accuracy.invalid]
        sentences += [peak.sentence.removesuffix(".") for peak in self.peaks if peak.rate is None]
        return tuple(sentences)

    @shown()
    def valid(self) -> bool:
        """Whether the whole test ran, and all of its runs are valid."""
        return not self.invalid and all(run.valid for run in self.runs)


def measure(
    scenario: Scenario,
    credentials: Credentials,
    stop: threading.Event,
    on_progress: Callable[[str], None],
    *,
    samples: Path | None = None,
    accuracy: bool = False,
    command: str = "",
) -> Results:
    """Run a load test.

    Args:
        credentials: The TLS files and the token for all servers.
        stop: An event that ends the test early. An interrupted test returns the results so far.
        on_progress: A function that is called several times per second with a text about the progress.
        samples: A folder, a CSV file or an .npz file with the samples to send; None for random values.
        command: The command line, for the report.

    Raises:
        LoadTestError: A target cannot be measured, samples do not match a model, or a generator process failed.
        CredentialsError: The credentials' files cannot be read.
    """
    started, start = datetime.now(UTC), time.monotonic()
    targets: dict[str, Description] = {}
    pools: dict[str, RequestPool] = {}
    with open_probes(scenario.targets, credentials) as probes:
        libraries = [load(probe.describe(), scenario, samples) for probe in probes.values()]
        # Each target is called once before any load, so that a refused request is reported in one error message and not
        # as hundreds of failed calls.
        for library in libraries:
            target, name = library.description.target, library.description.name
            response = probes[name].call(library.method, library.requests[0], scenario.deadline)
            answering = response.model_version
            if target.version and answering not in ("", target.version):
                raise LoadTestError(
                    f"version {answering} answered a call to {target.model}@{target.version}, so the server at "
                    f"{target.address} ignores version numbers."
                )
            targets[name] = replace(library.description, answering_version=answering, samples=library.samples.source)
            pools[name] = library.request_pool(scenario.deadline)
        for library in libraries if accuracy else ():
            name = library.description.name
            measured = measure_accuracy(library, probes[name], scenario.deadline, stop, on_progress)
            targets[name] = replace(targets[name], accuracy=measured)
        with connected(pools, scenario, credentials, stop) as generators:
            counts = ServerCounts(lambda name: probes[name].statistics())
            session = Session(scenario, generators, stop, on_progress, counts)
            runs = session.run()
            target_peaks = peaks.find(scenario, session) if scenario.find_peak else ()
        # The last run of a successful search confirmed the peak.
        runs += tuple(peak.steps[-1] for peak in target_peaks if peak.rate is not None)
    channels = ", ".join(sorted({channel_kind(pool.address).name for pool in pools.values()}))
    generator = f"{counted(scenario.generator_processes, 'process', 'processes')} on {channels}"
    return Results(
        targets=tuple(targets.values()),
        scenario=scenario,
        runs=runs,
        interrupted=stop.is_set(),
        started=started.isoformat(timespec="seconds"),
        duration=time.monotonic() - start,
        command=command,
        environment=machine_check.describe() | {"generator": generator},
        peaks=target_peaks,
    )
