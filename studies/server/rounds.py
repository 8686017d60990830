"""A round of the comparison: every load on every system in turn, so that what changes on the machine changes all."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from hangtag.serving.loadtest.machine.other_programs import other_programs
from studies import results
from studies.server.goals import UNITS
from studies.server.peers.bare import Bare
from studies.server.process import Launch, served
from studies.server.scenarios import CLOSED_LOOPS, LOADS, MODELS, SAMPLES, Bench, Figures, closed_loop

ALONE = "cnn"
"""The model of the loads `poisson` and `overload`."""


@dataclass(frozen=True)
class Rounds:
    """Measures rounds.

    Args:
        launches: How to start each server.
        bare: Bare ONNX Runtime; None to leave it out, with what is a share of it.
        loads: Names of scenarios.LOADS.
        seconds: The approximate duration of each load.
        advance: Called with a description before each measurement.
        say: Called with the figures of each load, as a line for a reader.
    """

    launches: Mapping[str, Launch]
    bare: Bare | None
    loads: Sequence[str]
    seconds: float
    advance: Callable[[str], None]
    say: Callable[[str], None]

    @property
    def steps(self) -> int:
        """How often a round calls `advance`."""
        loops = len(MODELS) * len(self._closed_loops)
        alone = sum(load in self.loads for load in ("start", "overload"))
        able = sum(launch.answers_loadtest for launch in self.launches.values()) if "poisson" in self.loads else 0
        return len(self.launches) * (loops + alone) + able + (len(MODELS) if self.bare else 0)

    def measure(self, number: int) -> results.Line:
        """The figures of one round: system -> model -> load -> figures, and the share of the CPUs that others took."""
        order = list(self.launches)
        order = order[number % len(order) :] + order[: number % len(order)]
        line: results.Line = {name: {model: {} for model in MODELS} for name in order}
        with other_programs() as others:
            if "start" in self.loads:
                self._each(order, None, "start", line, lambda name: _start(self.launches[name]))
            if self.bare:
                line["bare"] = {model: self._bare(self.bare, model) for model in MODELS}
            with ExitStack() as stack:
                benches = {
                    name: Bench(stack.enter_context(served(self.launches[name])), self.seconds) for name in order
                }
                self._loops(order, benches, line)
            if "overload" in self.loads:
                self._each(order, ALONE, "overload", line, self._overload)
        return line | {"others": others.share or 0.0}

    @property
    def _closed_loops(self) -> list[str]:
        return [load for load in CLOSED_LOOPS if load in self.loads]

    def _loops(self, order: Sequence[str], benches: Mapping[str, Bench], line: results.Line) -> None:
        """The loads for which the servers run side by side; a server without calls takes no time."""
        for model in MODELS:
            for load in self._closed_loops:
                shape = closed_loop(load)
                self._each(order, model, load, line, lambda name: benches[name].closed(model, shape))  # noqa: B023
        if "poisson" in self.loads and self.bare:
            rate = line["bare"][ALONE]["batch"]["samples_per_s"]
            able = [name for name in order if self.launches[name].answers_loadtest]
            self._each(able, ALONE, "poisson", line, lambda name: benches[name].highest_rate(ALONE, rate))

    def _each(
        self, order: Sequence[str], model: str | None, load: str, line: results.Line, measure: Callable[[str], Figures]
    ) -> None:
        """Let every server have its turn under one load, and write its figures into the line."""
        title = f"{model}, {LOADS[load]}" if model else LOADS[load]
        for name in order:
            self.advance(f"{title}: {name}")
            (line[name] if model is None else line[name][model])[load] = measure(name)
        figures = {name: (line[name] if model is None else line[name][model])[load] for name in order}
        shown = next(name for name in UNITS if name in figures[order[0]])
        values = ", ".join(f"{name} {figures[name][shown]:,.4g}" for name in self.launches if name in figures)
        self.say(f"{title}, {UNITS[shown]}: {values}")

    def _bare(self, bare: Bare, model: str) -> Figures:
        self.advance(f"{model}, bare ONNX Runtime")
        batches = bare.measure(model, SAMPLES, self.seconds)
        self.say(f"{model}, bare ONNX Runtime, images/s: {batches['samples_per_s']:,.0f}")
        return {"1": bare.measure(model, 1, self.seconds / 2), "batch": batches}

    def _overload(self, name: str) -> Figures:
        with served(self.launches[name]) as server:
            return Bench(server, self.seconds).overload(ALONE)


def _start(launch: Launch) -> Figures:
    """Nothing else runs: servers that run together share memory, which PSS would divide."""
    with served(launch) as server:
        return {"seconds_to_ready": server.seconds_to_ready, "pss_mb": server.pss_mb()}
