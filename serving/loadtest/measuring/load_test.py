"""Runs a whole load test, from connecting to the targets to the results."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from hangtag.printable import counted
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest import machine_check
from hangtag.serving.loadtest.errors import LoadTestError
from hangtag.serving.loadtest.generator.generator_process import GeneratorProcesses
from hangtag.serving.loadtest.generator.process_messages import RequestPool
from hangtag.serving.loadtest.measuring import peaks
from hangtag.serving.loadtest.measuring.accuracy import measure as measure_accuracy
from hangtag.serving.loadtest.measuring.interleaving import ServerCounts, Session
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.samples.library import load
from hangtag.serving.loadtest.sut import Description, open_probes

OnProgress = Callable[[str], None]


def measure(
    scenario: Scenario,
    credentials: Credentials,
    stop: threading.Event,
    on_progress: OnProgress,
    *,
    samples: Path | None = None,
    accuracy: bool = False,
    command: str = "",
) -> Results:
    """Run a load test.

    Args:
        scenario: The settings.
        credentials: The TLS files and the token for all servers.
        stop: An event that ends the test early. An interrupted test returns the results so far.
        on_progress: A function that is called several times per second with a text about the progress.
        samples: A folder, a CSV file or an .npz file with the samples to send; None for random values.
        accuracy: Whether to measure the accuracy before the load.
        command: The command line, for the report.

    Raises:
        LoadTestError: If a target cannot be measured, if samples do not match a model, or if a generator process
            failed.
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
                raise LoadTestError(f"version {answering} answered {target}, so the server ignores version numbers.")
            targets[name] = replace(library.description, answering_version=answering, samples=library.samples.source)
            pools[name] = library.request_pool(scenario.deadline)
        for library in libraries if accuracy else ():
            name = library.description.name
            measured = measure_accuracy(library, probes[name], scenario.deadline, stop, on_progress)
            targets[name] = replace(targets[name], accuracy=measured)
        with GeneratorProcesses(pools, scenario, credentials, stop) as generators:
            session = Session(
                scenario, generators, stop, on_progress, ServerCounts(lambda name: probes[name].statistics())
            )
            runs = session.run()
            target_peaks = peaks.find(scenario, session) if scenario.find_peak else ()
        runs += tuple(peak.confirmation for peak in target_peaks if peak.confirmation is not None)
    generator = f"{counted(scenario.generator_processes, 'process', 'processes')} on {generators.channel_names}"
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
