"""Measure what a cascade gains over its members, and what a split and a shadow cost."""

import math
import shutil
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from hangtag.serving.model_repository import numbered_versions
from hangtag.training.data.fashion_mnist import DEBIAN_DIR
from studies import options
from studies.bench import h2load, loads, systems
from studies.bench.comparison import Comparison, Turns
from studies.bench.goals import Goal, figures
from studies.bench.h2load import Load
from studies.bench.loads import Figures
from studies.bench.process import Served, hangtag_serve, served
from studies.page import Part
from studies.results import Line

FAST, ACCURATE, BEST = "cnn-small-int8", "cnn-int8", "cnn"
"""The models to which the cascade is compared: its members, and the most accurate model."""
PRIMARY, SHADOW = "lstm", "lstm-before"
"""SHADOW is the first version of the model PRIMARY under another name, so calls to both need equal time. The split has
these two members. In the route with a shadow, PRIMARY answers the calls, and SHADOW gets copies of them."""
PLAIN, SHADOWED, SPLIT = "plain", "shadowed", "split"
"""The routes of the study: PLAIN has only PRIMARY, SHADOWED has SHADOW as PRIMARY's shadow, and SPLIT splits the calls
between PRIMARY and SHADOW by SHARES."""
SHARES = {PRIMARY: 90.0, SHADOW: 10.0}
ROUTES = {
    PLAIN: f"split = {{{PRIMARY} = 100}}",
    SHADOWED: f'split = {{{PRIMARY} = 100}}\nshadow = {{model = "{SHADOW}", share = 1}}',
    SPLIT: f"split = {{{', '.join(f'{member} = {share:g}' for member, share in SHARES.items())}}}",
}
"""The route.toml of each route of the study."""
ROUTE = "fast-and-accurate"
MEMBERS = {FAST: FAST, "route": ROUTE, ACCURATE: ACCURATE, BEST: BEST}
"""The systems that take turns, with their models."""
IN_FLIGHT = ("1", "4", "16", "64")
CASCADE, HALF = "cascade", 0.5
_OPEN_LOOP = 4  # open loops run longer by this factor, because only the slowest 1 % of the calls determine a p99
COMPARISON = Comparison(
    "routes",
    {
        FAST: "the cascade's first member",
        "route": f"the shipped cascade, {ROUTE}",
        ACCURATE: "the cascade's last member",
        BEST: "the FP32 file from which the last member was quantised",
        "split": f"a split of `{PRIMARY}` and `{SHADOW}`, {SHARES[PRIMARY]:g} to {SHARES[SHADOW]:g}; `{SHADOW}` is the "
        f"first version of `{PRIMARY}`",
        "alone": f"`{PRIMARY}` at half of the rate that it reaches with 64 calls in flight, Poisson arrivals",
        "shadowed": f"the same calls as in `alone`, while `{SHADOW}` gets a copy of each",
        "busier": f"`{PRIMARY}` alone, with so many calls that the server is as busy as in `shadowed`",
    },
    {load: f"{load} in flight" for load in IN_FLIGHT}
    | {"accuracy": "all test images", "half": "half of the peak", "calls": "calls at random"},
    (
        Goal(CASCADE, "accuracy", "points_below", 0.1, system="route"),
        Goal(CASCADE, "64", "samples_per_s", 1.5, ACCURATE, system="route"),
        Goal(CASCADE, "64", "p99_ms", 1.0, ACCURATE, system="route"),
        # A binomial count is within 3.29 standard deviations of its mean with a probability of 99.9 %.
        Goal("split", "calls", "deviations", 3.29, system="split"),
        # For a tenth of the time, copies for the shadow occupy one of the two processors, and calls wait for them. In
        # `busier`, there are no copies to wait for, so a limit of 1.1 for the ratio of the p99 would be too strict.
        Goal("shadow", "half", "p99_ms", 1.5, "busier", system="shadowed"),
    ),
    packages=("grpcio", "pygrpc-native", "onnxruntime", "numpy"),
    models=(CASCADE, "shadow"),
)


@dataclass(frozen=True)
class _Bench:
    """The server, the folder of the real test images, and the minimum duration of each load."""

    server: Served
    samples: Path
    seconds: float

    def accuracy(self) -> dict[str, Figures]:
        """Measure the accuracy of each of MEMBERS on all test images, through the server."""
        document = self._loadtest([*MEMBERS.values()], 0.05, "--concurrency", "1", "--accuracy")
        shares = {each["name"]: each["accuracy"]["accuracy"] for each in document["targets"]}
        images = document["targets"][0]["accuracy"]["total"]
        measured: dict[str, Figures] = {
            name: {"share": shares[model], "images": images} for name, model in MEMBERS.items()
        }
        measured["route"]["points_below"] = 100 * round((shares[BEST] - shares[ROUTE]) * images) / images
        return measured

    def load(self, model: str, seconds: float, *load: str) -> Figures:
        """Measure the rate and the latency of calls with one test image each, and the server's processor time for a
        call.

        Raises:
            click.ClickException: Calls failed.
        """
        before, cpu = self.server.answered(model), self.server.cpu_seconds()
        total = self._loadtest([model], seconds, *load)["runs"][0]["total"]
        cpu, calls = self.server.cpu_seconds() - cpu, self.server.answered(model) - before
        if total["statuses"].keys() != {"OK"}:
            raise click.ClickException(f"calls to {model} failed: {total['statuses']}")
        latencies = {f"{name}_ms": total["latency"][name] * 1e3 for name in ("p50", "p99")}
        return {"samples_per_s": total["throughput"], **latencies, "cpu_us": cpu / calls * 1e6, "calls": calls}

    def _loadtest(self, models: list[str], seconds: float, *load: str) -> Line:
        options = ("--min-query-count", "1", "--processes", "1", "--samples", str(self.samples), *load)
        return loads.loadtest(self.server.address, models, seconds, *options)

    def split(self, calls: int) -> Figures:
        """Send calls to SPLIT, and read from each member's statistics how many calls it got."""
        before = {member: self.server.answered(member) for member in SHARES}
        h2load.run(self.server.url, SPLIT, Load(calls, clients=loads.CONNECTIONS, streams=4))
        counts = {member: self.server.answered(member) - before[member] for member in SHARES}
        if sum(counts.values()) != calls:
            raise click.ClickException(f"{sum(counts.values()):,} of {calls:,} calls were answered")
        share = SHARES[PRIMARY] / 100  # The other member's count deviates by the same number of calls.
        deviation = (counts[PRIMARY] - calls * share) / math.sqrt(calls * share * (1 - share))
        return {"calls": calls, "counts": counts, "deviations": abs(deviation)}

    def shadow(self, turns: Turns) -> None:
        """Measure PRIMARY at half of its peak rate in three runs: alone, with a shadow, and alone with more calls.

        Instead of a shadow, the third run has more calls, which take as much processor time as the shadow in the second
        run. So the latency of the third run shows the effect of the processor time alone.
        """
        peak = self.load(PLAIN, self.seconds, "--concurrency", "64")["samples_per_s"]
        rate, seconds = HALF * peak, _OPEN_LOOP * self.seconds
        alone = self.load(PLAIN, seconds, "--rate", f"{rate:.1f}")
        copies = self.server.answered(SHADOW)
        shadowed = self.load(SHADOWED, seconds, "--rate", f"{rate:.1f}")
        copied = (self.server.answered(SHADOW) - copies) / shadowed["calls"]
        busier = min(rate * shadowed["cpu_us"] / alone["cpu_us"], peak)
        turns.set("alone", "shadow", "half", alone | {"peak_per_s": peak, "rate_per_s": rate})
        turns.set("shadowed", "shadow", "half", shadowed | {"copied": copied})
        turns.set("busier", "shadow", "half", self.load(PLAIN, seconds, "--rate", f"{busier:.1f}"))


@click.command()
@options.ROUNDS
@options.SECONDS
@click.option(
    "--calls",
    type=click.IntRange(100),
    default=100_000,
    show_default=True,
    help="The number of calls to the split route.",
)
@options.MODELS
@click.option(
    "--samples",
    type=click.Path(exists=True, path_type=Path),
    default=DEBIAN_DIR,
    show_default=True,
    help="The folder of Fashion-MNIST's test images.",
)
@options.OUT
def main(rounds: int, seconds: float, calls: int, models: Path, samples: Path, out: Path | None) -> None:
    """Measure routes on a machine that does nothing else, over gRPC on the native transport.

    The cascade and its members take turns under each load. Each call has one real test image. The command needs h2load
    (Debian: nghttp2-client). The load generator shares the server's processors.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(systems.repository(models, (PRIMARY, *MEMBERS.values()), ROUTES))
        shutil.copytree(numbered_versions(models / PRIMARY)[-1].path.parent, folder / SHADOW / "1")
        server = stack.enter_context(served(hangtag_serve(folder, "--transport", "native")))
        bench = _Bench(server, samples, seconds)

        def measure(turns: Turns) -> None:
            if turns.number == 1:
                accuracy = bench.accuracy()
                turns.each(MEMBERS, CASCADE, "accuracy", lambda name: accuracy[name])
                turns.set("split", "split", "calls", bench.split(calls))
            for load in IN_FLIGHT:
                turns.each(
                    MEMBERS,
                    CASCADE,
                    load,
                    lambda name: bench.load(MEMBERS[name], seconds, "--concurrency", load),  # noqa: B023
                )
            bench.shadow(turns)

        complete = options.complete("models", "samples", "calls")
        COMPARISON.run(rounds, measure, out or (COMPARISON.file if complete else None))


def part(path: Path | None = None) -> str:
    """Return the page's text about the comparison, the accuracies, the split and the shadow."""
    _, rounds = COMPARISON.read(path)
    first = rounds[0]
    accuracy = {name: first[name][CASCADE]["accuracy"] for name in MEMBERS}
    shares = ", ".join(f"`{MEMBERS[name]}` {each['share']:.2%}" for name, each in accuracy.items())
    split = first["split"]["split"]["calls"]
    counts = " and ".join(f"{count:,} to `{member}`" for member, count in split["counts"].items())
    copied = statistics.median(figures(rounds, "shadowed", "shadow", "half", "copied"))
    return f"""{COMPARISON.part(path)}

Each call has one of the test images. Figures in µs are the server's processor time for a call. The load generator
shares the processors. Accuracy on the {accuracy["route"]["images"]:,} test images:
{shares}.

Of {split["calls"]:,} calls, the split sent {counts}.

A copy for the shadow is skipped if the route has other work.
Here the shadow got {copied:.0%} of the copies. A copy costs as much processor time as a call of `{SHADOW}`. `busier`
uses as much processor time without a shadow, so its latency shows the effect of the processor time alone."""


PARTS = (Part("studies/bench/routes.md", part, "measurements"),)
