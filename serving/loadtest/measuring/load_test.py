"""A whole load test, from targets to results."""

import threading
import time
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.generator.messages import CallSettings
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.measuring import accuracy, caching, calibration, peaks
from hangtag.serving.loadtest.measuring.environment import describe
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.measuring.session import Progress, Session
from hangtag.serving.loadtest.plan.load import ClosedLoop
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.samples import SampleLibrary, load
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings
from hangtag.serving.loadtest.sut.probe import Description, Probe, opened


@dataclass(frozen=True)
class Extras:
    """What is measured beside the load, and with what."""

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
    show: Callable[[Progress | accuracy.AccuracyProgress], None],
    command: str = "",
) -> Results:
    """Run the load test. Once `stop` is set it ends early, with what there is. Raises LoadTestError."""
    started, start = datetime.now(UTC), time.monotonic()
    with opened(scenario.targets, credentials) as probes:
        described = {target.name: probes[target.name].describe(target) for target in scenario.targets}
        libraries = [
            load(
                target,
                described[target.name].metadata,
                scenario.batch_size,
                scenario.seed,
                extras.samples,
                neighbours=scenario.scenario == "multi-stream",
            )
            for target in scenario.targets
        ]
        # One call each before any load: what the server refuses is said in one sentence, not counted 500 times.
        for library in libraries:
            name = library.target.name
            answer = probes[name].call(library.target, library.feed.method, library.requests[0], scenario.deadline)
            described[name] = replace(described[name], answering_version=library.answering_version(answer))
        accuracies = _accuracies(libraries, described, probes, scenario.deadline, stop, show) if extras.accuracy else {}
        feeds = {library.target.name: library.feed for library in libraries}
        connections = CallSettings(scenario.channels, scenario.deadline, credentials, extras.public_api)
        cached = {
            target: caching.feeds(target, described[target.name].metadata, scenario.batch_size)
            for target in scenario.targets
            if extras.check_caching
        }
        with GeneratorProcesses(
            ChainMap(feeds, *cached.values()), connections, scenario.generator_processes, stop
        ) as fleet:
            checks = tuple(
                check
                for target, sent in cached.items()
                if (check := caching.check(scenario, target, sent, fleet, stop, show))
            )

            def counters(name: str) -> ServerTimings | None:
                return probes[name].counters(described[name].target.model) if described[name].statistics else None

            session = Session(scenario, fleet, stop, show, counters)
            runs = session.run()
            found = peaks.find(scenario, session) if scenario.find_peak else ()
            path = fleet.path
        runs += tuple(peak.confirmation for peak in found if peak.confirmation is not None)
        ceilings: tuple[calibration.Ceiling, ...] = ()
        if extras.calibrate:
            loads = tuple(dict.fromkeys(run.load for run in runs if isinstance(run.load, ClosedLoop)))
            alone = replace(connections, credentials=Credentials())
            ceilings = calibration.calibrate(
                loads, libraries[0].requests, scenario.generator_processes, stop, alone, show
            )
    return Results(
        scenario=scenario,
        described=described,
        sources={library.target.name: library.samples.source for library in libraries},
        runs=tuple(_with_ceiling(run, ceilings) for run in runs),
        interrupted=stop.is_set(),
        started=started.isoformat(timespec="seconds"),
        duration=time.monotonic() - start,
        command=command,
        environment=describe() | {"generator": f"{_processes(scenario.generator_processes)} on {path}"},
        peaks=found,
        accuracies=accuracies,
        caching=checks,
        ceilings=ceilings,
    )


def _accuracies(
    libraries: Sequence[SampleLibrary],
    described: dict[str, Description],
    probes: dict[str, Probe],
    deadline: float,
    stop: threading.Event,
    show: Callable[[accuracy.AccuracyProgress], None],
) -> dict[str, accuracy.Accuracy]:
    found = {}
    for library in libraries:
        name = library.target.name
        one = accuracy.measure(library, described[name], probes[name], deadline, stop, show)
        if one is not None:
            found[name] = one
    return found


def _with_ceiling(run: Run, ceilings: Sequence[calibration.Ceiling]) -> Run:
    ceiling = next((ceiling.throughput for ceiling in ceilings if ceiling.load == run.load), None)
    return replace(run, ceiling=ceiling)


def _processes(count: int) -> str:
    return f"{count} process{'es' * (count > 1)}"
