"""Runs a whole load test, from the targets to the results."""

import threading
import time
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.errors import TargetError
from hangtag.serving.loadtest.generator.messages import CallSettings, RequestPool
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.machine import environment
from hangtag.serving.loadtest.measuring import caching, calibration, peaks
from hangtag.serving.loadtest.measuring.accuracy import Accuracy, AccuracyProgress
from hangtag.serving.loadtest.measuring.accuracy import measure as measure_accuracy
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.measuring.session import Progress, Session
from hangtag.serving.loadtest.plan.load import ClosedLoop
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.samples import SampleLibrary, load
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings
from hangtag.serving.loadtest.sut.description import Description
from hangtag.serving.loadtest.sut.probe import Probe, open_probes

OnProgress = Callable[[Progress | AccuracyProgress], None]


@dataclass(frozen=True)
class Extras:
    """What is sent, and what is measured besides the load."""

    samples: Path | None = None  # A folder or an .npz file; None: random values.
    accuracy: bool = False
    check_caching: bool = False
    calibrate: bool = False
    public_api: bool = False  # Make calls with grpcio's public API only.


def measure(
    scenario: Scenario,
    extras: Extras,
    credentials: Credentials,
    stop: threading.Event,
    on_progress: OnProgress,
    command: str = "",
) -> Results:
    """Run a load test.

    Args:
        scenario: The settings.
        extras: Samples, and further measurements.
        credentials: For all servers.
        stop: Once it is set, the test ends early, with the results so far.
        on_progress: Called several times a second.
        command: The command line, for the report.

    Raises:
        LoadTestError: When a target cannot be measured, samples do not fit, or a generator process failed.
        CredentialsError: When the credentials' files cannot be read.

    Example:
        scenario = Scenario((Target("cnn", "cnn"),), concurrency=(8,))
        results = measure(scenario, Extras(), Credentials(), threading.Event(), lambda progress: None)
        print(results.runs[0].throughput)
    """
    started, start = datetime.now(UTC), time.monotonic()
    with open_probes(scenario.targets, credentials) as probes:
        descriptions = {target.name: probes[target.name].describe(target) for target in scenario.targets}
        libraries = [
            _library(scenario, target, descriptions[target.name], extras.samples) for target in scenario.targets
        ]
        # One call each before any load: a refused request is then one error message, not hundreds of failed calls.
        for library in libraries:
            name = library.target.name
            response = probes[name].call(library.target, library.method, library.requests[0], scenario.deadline)
            answering = library.answering_version(response)
            if library.target.version and answering not in ("", library.target.version):
                raise TargetError(f"{name} was answered by version {answering}: its server ignores requested versions.")
            descriptions[name] = replace(descriptions[name], answering_version=answering)
        accuracies: dict[str, Accuracy] = {}
        if extras.accuracy:
            accuracies = _accuracies(libraries, descriptions, probes, scenario.deadline, stop, on_progress)
        pools = {library.target.name: library.request_pool(scenario.deadline) for library in libraries}
        settings = CallSettings(scenario.channels, scenario.deadline, credentials, extras.public_api)
        caching_pools: dict[Target, dict[str, RequestPool]] = {
            target: caching.request_pools(
                target, descriptions[target.name].metadata, scenario.batch_size, scenario.deadline
            )
            for target in scenario.targets
            if extras.check_caching
        }
        all_pools = ChainMap(pools, *caching_pools.values())
        with GeneratorProcesses(all_pools, settings, scenario.generator_processes, stop) as generators:
            checks = [
                caching.check(scenario, target, target_pools, generators, stop, on_progress)
                for target, target_pools in caching_pools.items()
            ]

            def read_counters(name: str) -> ServerTimings | None:
                description = descriptions[name]
                return probes[name].statistics(description.target) if description.statistics else None

            session = Session(scenario, generators, stop, on_progress, read_counters)
            runs = session.run()
            target_peaks = peaks.find(scenario, session) if scenario.find_peak else ()
        runs += tuple(peak.confirmation for peak in target_peaks if peak.confirmation is not None)
        ceilings: list[calibration.Ceiling] = []
        if extras.calibrate:
            loads = tuple(dict.fromkeys(run.load for run in runs if isinstance(run.load, ClosedLoop)))
            plain = replace(settings, credentials=Credentials())
            by_protocol: dict[str, RequestPool] = {}
            for target in scenario.targets:
                by_protocol.setdefault(target.protocol, pools[target.name])
            for protocol, pool in by_protocol.items():
                ceilings += calibration.calibrate(
                    protocol, loads, pool.requests, scenario.generator_processes, stop, plain, on_progress
                )
    protocols = {target.name: target.protocol for target in scenario.targets}
    generator = f"{_processes(scenario.generator_processes)} on {generators.channel_names}"
    return Results(
        scenario=scenario,
        descriptions=descriptions,
        sources={library.target.name: library.samples.source for library in libraries},
        runs=tuple(_with_ceiling(run, protocols[run.target], ceilings) for run in runs),
        interrupted=stop.is_set(),
        started=started.isoformat(timespec="seconds"),
        duration=time.monotonic() - start,
        command=command,
        environment=environment.describe() | {"generator": generator},
        peaks=target_peaks,
        accuracies=accuracies,
        caching=tuple(check for check in checks if check is not None),
        ceilings=tuple(ceilings),
    )


def _library(scenario: Scenario, target: Target, description: Description, path: Path | None) -> SampleLibrary:
    neighbours = scenario.scenario == "multi-stream"
    metadata, parameters = description.metadata, description.parameters
    return load(target, metadata, scenario.batch_size, scenario.seed, path, parameters, neighbours=neighbours)


def _accuracies(
    libraries: Sequence[SampleLibrary],
    descriptions: dict[str, Description],
    probes: dict[str, Probe],
    deadline: float,
    stop: threading.Event,
    on_progress: OnProgress,
) -> dict[str, Accuracy]:
    accuracies = {}
    for library in libraries:
        name = library.target.name
        accuracy = measure_accuracy(library, descriptions[name], probes[name], deadline, stop, on_progress)
        if accuracy is not None:
            accuracies[name] = accuracy
    return accuracies


def _with_ceiling(run: Run, protocol: str, ceilings: Sequence[calibration.Ceiling]) -> Run:
    same = (ceiling for ceiling in ceilings if (ceiling.protocol, ceiling.load) == (protocol, run.load))
    return replace(run, ceiling=next((ceiling.throughput for ceiling in same), None))


def _processes(count: int) -> str:
    return f"{count} process{'es' * (count > 1)}"
