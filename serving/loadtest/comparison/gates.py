"""Gates: the conditions of --fail-if, such as `lstm.p99 > 5ms` or `cnn.throughput < 0.95 * baseline`."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hangtag.serving.loadtest.plan.load import Load

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
DURATION_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
SHARE_METRICS = ("accuracy", "error_rate")
PLAIN_METRICS = ("throughput", "samples_per_second", "errors", "peak")
TEST_METRICS = ("accuracy", "peak")  # One figure of the whole test, whatever the load.
BASELINE = "baseline"

_METRIC = r"throughput|samples_per_second|p\d{1,2}(?:\.\d+)?|max|errors|error_rate|accuracy|peak"


def _figure(prefix: str) -> str:
    return rf"(?P<{prefix}target>[^\s\[\]*<>=]+?)(?:\[(?P<{prefix}load>[^\]]+)\])?\.(?P<{prefix}metric>{_METRIC})"


_NUMBER = r"\d+(?:\.\d*)?(?:e[+-]?\d+)?"
_GATE = re.compile(
    rf"\s*{_figure('')}\s*(?P<operator>>=|<=|>|<)\s*"
    rf"(?:(?:(?P<factor>{_NUMBER})\s*\*\s*)?(?:(?P<baseline>{BASELINE})|{_figure('other_')})"
    rf"|(?P<value>{_NUMBER})\s*(?P<unit>us|µs|ms|s|%)?)\s*"
)
SYNTAX = (
    "write TARGET.METRIC > VALUE, for example 'lstm.p99 > 5ms' or 'cnn.throughput < 0.95 * baseline'; the metrics are "
    "throughput, samples_per_second, percentiles such as p50, max, errors, error_rate, accuracy and peak"
)


@dataclass(frozen=True)
class Figure:
    """A metric of a target, under one load or, without one, under every load."""

    target: str
    metric: str
    load: str | None = None

    def is_under(self, load: Load) -> bool:
        """Whether this is the metric under that load, which is named in whole or by its amount."""
        return self.load is None or self.load.strip() in (str(load), str(load).split(" ")[0])


@dataclass(frozen=True)
class Gate:
    """A condition under which the test fails: `figure` compared with `factor` times `against`."""

    text: str
    figure: Figure
    operator: str
    factor: float  # The bound itself, where there is nothing to multiply.
    against: Figure | None = None
    against_baseline: bool = False

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What the run has to measure."""
        return (self.figure,) if self.against is None else (self.figure, self.against)

    @property
    def needs_common_load(self) -> bool:
        """Whether each run is compared with one under the same load, of the baseline or of another target."""
        other = self.against
        if self.figure.load is not None or self.figure.metric in TEST_METRICS:
            return False
        if other is None:
            return self.against_baseline
        return other.load is None and other.metric not in TEST_METRICS and other.target != self.figure.target


def parse(text: str, targets: tuple[str, ...], has_baseline: bool) -> Gate:
    """Parse a condition, for example `cnn[64].p99 > 2 * lstm.p99`.

    Raises:
        ValueError: When the text is no condition, refers to a target or a baseline that is missing, has a value
            whose unit does not fit the metric, or can never hold.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a condition: {SYNTAX}")
    figure = Figure(match["target"], match["metric"], match["load"])
    against = (
        Figure(match["other_target"], match["other_metric"], match["other_load"]) if match["other_target"] else None
    )
    for name in {figure.target} | ({against.target} if against else set()):
        if name not in targets:
            raise ValueError(f"{text!r} is about {name!r}, which is not measured: {', '.join(targets)} are")
    if match["baseline"] and not has_baseline:
        raise ValueError(f"{text!r} needs the saved results to compare with: give --baseline FILE.json")
    if match["value"]:
        factor = _in_unit(text, figure.metric, float(match["value"]), match["unit"] or "")
        _require_possible(text, figure.metric, match["operator"], factor)
    else:
        factor = float(match["factor"] or "1")
    return Gate(
        text=text.strip(),
        figure=figure,
        operator=match["operator"],
        factor=factor,
        against=against,
        against_baseline=bool(match["baseline"]),
    )


def _in_unit(text: str, metric: str, value: float, unit: str) -> float:
    """The value in seconds, as a share or as a plain number. Raises ValueError for a unit that does not fit."""
    if metric in PLAIN_METRICS:
        if unit:
            raise ValueError(f"{text!r}: {metric} is a plain number, without {unit!r}")
        return value
    if metric in SHARE_METRICS:
        # A plain 1 is refused too, because its author may mean 1 %.
        if unit not in ("", "%") or (not unit and value >= 1):
            raise ValueError(f"{text!r}: {metric} is a share: write {value:g} %, or a number below 1")
        return value / 100 if unit else value
    if unit not in DURATION_UNITS:
        raise ValueError(f"{text!r}: {metric} is a duration: give its unit, for example {value:g}ms")
    return value * DURATION_UNITS[unit]


def _require_possible(text: str, metric: str, comparison: str, bound: float) -> None:
    """Refuse a condition that no figure can meet: a gate that cannot fail protects nothing. Raises ValueError."""
    if comparison == "<" and bound == 0:
        raise ValueError(f"{text!r} can never hold: {metric} is never below 0")
    if metric in SHARE_METRICS and (bound > 1 or (comparison == ">" and bound == 1)):
        raise ValueError(f"{text!r} makes no sense: {metric} is a share, which is at most 100 %")
