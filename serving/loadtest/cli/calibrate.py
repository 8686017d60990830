"""`hangtag loadtest --calibrate` without a model: measures the generator's own ceiling on this machine."""

import threading

from rich.console import Console

from hangtag.serving.connection.http.codec.wire import HttpRequest
from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.cli import progress
from hangtag.serving.loadtest.generator.channels.http_text import as_text
from hangtag.serving.loadtest.generator.messages import CallSettings
from hangtag.serving.loadtest.measuring.calibration import Ceiling, calibrate
from hangtag.serving.loadtest.plan.load import Load
from hangtag.serving.loadtest.plan.scenario import Scenario

# About the size of a ModelInferRequest with one Fashion-MNIST image.
REQUEST = bytes(830)


def calibrate_alone(scenario: Scenario, console: Console) -> None:
    """Print the ceiling under each of the scenario's loads; progress goes to `console`. Raises GeneratorError."""
    settings = CallSettings(scenario.channels, scenario.deadline)
    loads: tuple[Load, ...] = scenario.closed_loops
    loads += () if scenario.derives_rate else scenario.open_loops(1.0)
    ceilings: list[Ceiling] = []
    requests = {"gRPC": REQUEST, "HTTP": as_text("http://127.0.0.1", HttpRequest("POST", "null", REQUEST))}
    with progress.live(console) as show:
        for protocol, request in requests.items():
            stop = threading.Event()
            ceilings += calibrate(protocol, loads, (request,), scenario.generator_processes, stop, settings, show)
    for ceiling in ceilings:
        delayed = f", {ceiling.delayed:.1%} left late" if ceiling.delayed else ""
        Console().print(
            f"{ceiling.protocol}, {ceiling.load}: {units.three_digits(ceiling.throughput)} calls/s, "
            f"p50 {units.duration(ceiling.p50)}, p99 {units.duration(ceiling.p99)}{delayed}",
            highlight=False,
        )
