"""Compare hangtag over gRPC with Triton, with a minimal server, and with bare ONNX Runtime."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from studies import options
from studies.bench import loads, systems
from studies.bench.comparison import Comparison, Turns
from studies.bench.goals import Goal
from studies.bench.loads import CLOSED_LOOPS, LOADS, SAMPLES, closed_loop
from studies.bench.peers.bare import Bare, bare
from studies.bench.process import served
from studies.page import Part

MODELS = ("lstm", "cnn")
SINGLE = ("1", "4", "16", "64")
ALONE = "cnn"
"""The model for the loads `poisson` and `overload`."""
BARE = "bare"
_NAMES = (*systems.SERVER, BARE)
_RATE = "samples_per_s"
COMPARISON = Comparison(
    "server",
    {name: system.description for name, system in systems.SERVER.items()}
    | {BARE: "ONNX Runtime alone, without a server"},
    LOADS,
    (
        *(Goal("lstm", load, _RATE, 0.9, "minimal") for load in SINGLE),
        Goal("cnn", "1", _RATE, 1.3, "minimal"),
        *(Goal("cnn", load, _RATE, 0.95, "minimal") for load in SINGLE[1:]),
        *(
            Goal(model, load, _RATE, bound, "triton")
            for model, bounds in (("lstm", (1.6, 1.4, 1.4, 1.3)), ("cnn", (1.5, 1.15, 1.2, 1.15)))
            for load, bound in zip(SINGLE, bounds, strict=True)
        ),
        *(Goal(model, "1", "p50_ms", 0.55, "triton") for model in MODELS),
        *(
            Goal(model, load, _RATE, bound, "native", system="tls")
            for model in MODELS
            for load, bound in zip(SINGLE, (0.75, 0.7, 0.7, 0.7), strict=True)
        ),
        Goal("cnn", "batch", _RATE, 0.95, BARE),
        Goal("lstm", "batch", _RATE, 0.90, BARE),
        Goal("cnn", "overload", "in_time_share", 0.85),
        Goal("cnn", "overload", "gained_mb", 50),
        Goal("cnn", "overload", "kept_mb", 10),
        Goal("cnn", "poisson", "share", 0.6),
        Goal(None, "start", "pss_mb", 125),
        Goal(None, "start", "seconds_to_ready", 0.9),
    ),
)
PARTS = (
    Part("studies/bench/README.md", COMPARISON.part, "figures"),
    Part("docs/explanation/performance.md", partial(COMPARISON.loads_part, without="minimal"), "grpc"),
)


@click.command()
@click.option(
    "--only", type=options.Names(_NAMES), default=",".join(_NAMES), show_default=True, help="The systems to measure."
)
@click.option("--loads", "chosen", type=options.Names(LOADS), default=",".join(LOADS), show_default=True,
              help="The loads to measure.")  # fmt: skip
@options.ROUNDS
@options.SECONDS
@options.MODELS
@options.OUT
def main(
    only: tuple[str, ...], chosen: tuple[str, ...], rounds: int, seconds: float, models: Path, out: Path | None
) -> None:
    """Compare the server with other systems on a machine that does nothing else.

    \b
    python -m studies server run                                       everything, for the page
    python -m studies server run --only native,triton --loads 16,64    a short comparison

    The command needs h2load (Debian: nghttp2-client). Triton needs 'make triton'. The load generator shares the
    server's processors. To measure ratios to bare ONNX Runtime, include `bare` in --only.
    """
    names = [name for name in only if name != BARE]
    if not names:
        raise click.UsageError("--only names no server: add one, such as native.")
    complete = options.complete("only", "chosen", "models")
    with ExitStack() as stack:
        repository = stack.enter_context(systems.networks(models))
        starts = {name: stack.enter_context(systems.SERVER[name].launch(repository)) for name in names}
        runtime = stack.enter_context(bare(repository)) if BARE in only else None

        def measure(turns: Turns) -> None:
            if "start" in chosen:
                turns.each(names, None, "start", lambda name: loads.start(starts[name]))
            if runtime:
                _measure_bare(turns, runtime, seconds)
            with ExitStack() as running:
                servers = {name: running.enter_context(served(starts[name])) for name in names}
                for model in MODELS:
                    for load in (load for load in CLOSED_LOOPS if load in chosen):
                        turns.each(names, model, load, lambda name: loads.closed(
                            servers[name], loads.over_grpc(servers[name], model), closed_loop(load), seconds, model,  # noqa: B023
                        ))  # fmt: skip
                # The minimal server lacks methods that `hangtag loadtest` calls before it sends load.
                able = [name for name in names if name != "minimal"]
                if "poisson" in chosen and runtime and able:
                    rate = turns.get(BARE, ALONE, "batch")[_RATE]
                    turns.each(
                        able, ALONE, "poisson", lambda name: loads.highest_rate(servers[name], ALONE, rate, seconds)
                    )
            if "overload" in chosen:
                turns.each(names, ALONE, "overload", lambda name: loads.overload(starts[name], ALONE, seconds))

        COMPARISON.run(rounds, measure, out or (COMPARISON.file if complete else None))


def _measure_bare(turns: Turns, runtime: Bare, seconds: float) -> None:
    for model in MODELS:
        turns.each([BARE], model, "batch", lambda _: runtime(model, SAMPLES, seconds))  # noqa: B023
        turns.set(BARE, model, "1", runtime(model, 1, seconds / 2))
