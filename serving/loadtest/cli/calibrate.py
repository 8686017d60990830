"""`hangtag loadtest --calibrate` without a model: measures the generator's own ceiling on this machine."""

import threading

from rich.console import Console

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.cli import progress
from hangtag.serving.loadtest.generator.messages import CallSettings
from hangtag.serving.loadtest.measuring.calibration import calibrate
from hangtag.serving.loadtest.plan.load import Load
from hangtag.serving.loadtest.plan.scenario import Scenario

# About the size of a ModelInferRequest with one Fashion-MNIST image.
REQUEST = bytes(830)


def calibrate_alone(scenario: Scenario, console: Console) -> None:
    """Print the ceiling under each of the scenario's loads; progress goes to `console`. Raises GeneratorError."""
    settings = CallSettings(scenario.channels, scenario.deadline)
    loads: tuple[Load, ...] = scenario.closed_loops
    loads += () if scenario.derives_rate else scenario.open_loops(1.0)
    with progress.live(console) as show:
        ceilings = calibrate(loads, (REQUEST,), scenario.generator_processes, threading.Event(), settings, show)
    for ceiling in ceilings:
        delayed = f", {ceiling.delayed:.1%} left late" if ceiling.delayed else ""
        Console().print(
            f"{ceiling.load}: {units.three_digits(ceiling.throughput)} calls/s, "
            f"p50 {units.duration(ceiling.p50)}, p99 {units.duration(ceiling.p99)}{delayed}",
            highlight=False,
        )
