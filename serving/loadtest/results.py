"""What a load test found: blocks merged into runs (one model under one load), and whether each run is VALID."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from serving.loadtest.recorder import DELAYED_AFTER, OK, BlockResult
from serving.loadtest.scenario import ClosedLoop, Load, OpenLoop, Scenario
from serving.loadtest.statistics import Counts, Values
from serving.loadtest.target import Target

# More delayed requests than this share, and the load was not the one that was asked for.
DELAYED_SHARE = 0.05


@dataclass(frozen=True)
class Run:
    """One model under one load, over all its blocks."""

    blocks: tuple[BlockResult, ...]
    batch_size: int
    planned_blocks: int = 1  # fewer took place when it was stopped: then it is not VALID

    @cached_property
    def total(self) -> BlockResult:
        """The blocks merged."""
        return BlockResult.merged(list(self.blocks))

    @property
    def model(self) -> str:
        """The model's name."""
        return self.blocks[0].model

    @property
    def load(self) -> Load:
        """What it was put under."""
        return self.blocks[0].load

    @property
    def throughput(self) -> float:
        """Answered queries a second."""
        return self.total.throughput

    @property
    def samples_per_second(self) -> float:
        """Samples a second: a query holds batch_size of them."""
        return self.throughput * self.batch_size

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Why the run is INVALID, a sentence each; empty for a VALID one."""
        total = self.total
        found = []
        if not total.finished or len(self.blocks) < self.planned_blocks:
            found.append(f"it ended too early, after {total.queries:,} queries in {total.window:.1f} s")
        if total.failed:
            codes = ", ".join(f"{count:,} {code}" for code, count in total.statuses.most_common() if code != OK)
            found.append(f"{total.failed:,} of {total.queries:,} calls failed ({codes})")
        if isinstance(self.load, OpenLoop) and total.delayed > DELAYED_SHARE * total.queries:
            found.append(
                f"the generator could not keep up: {total.delayed / total.queries:.1%} of the queries left more than "
                f"{DELAYED_AFTER * 1e3:g} ms late (p99 {total.lateness.percentile(99) * 1e3:.1f} ms)"
            )
        return tuple(found)

    @property
    def valid(self) -> bool:
        """Whether its numbers mean what they say."""
        return not self.problems

    def block_latencies(self) -> Counts:
        """Latency counts [blocks, values] over Histogram.values()."""
        return np.stack([block.latency.counts() for block in self.blocks])

    def block_throughputs(self) -> Values:
        """Throughput [blocks] in queries a second."""
        return np.array([block.throughput for block in self.blocks])


@dataclass(frozen=True)
class Results:
    """Everything that a report needs."""

    scenario: Scenario
    target: Target
    sources: dict[str, str]  # By model: where its samples come from.
    runs: tuple[Run, ...]  # By load in the order asked for, then by model.
    interrupted: bool
    started: str  # ISO 8601, UTC
    duration: float  # Seconds.
    command: str
    environment: dict[str, str]

    @property
    def loads(self) -> tuple[Load, ...]:
        """The loads that were run, closed loops first."""
        return tuple(dict.fromkeys(run.load for run in self.runs))

    def under(self, load: Load) -> tuple[Run, ...]:
        """The runs under this load, in the order of the models."""
        return tuple(run for run in self.runs if run.load == load)

    def closed_loops_of(self, model: str) -> tuple[Run, ...]:
        """A model's closed-loop runs in the order of the loads."""
        return tuple(run for run in self.runs if run.model == model and isinstance(run.load, ClosedLoop))

    @property
    def valid(self) -> bool:
        """Whether the whole test ran, and every run of it is VALID."""
        return bool(self.runs) and not self.interrupted and all(run.valid for run in self.runs)
