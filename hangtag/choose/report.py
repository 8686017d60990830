"""Reports a choice and its reasons as a table, in sentences and as a picture, and describes a route that was chosen."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from hangtag.choose.candidates import CONFIDENCE, IN_FLIGHT, Candidate, Wanted, bound, curve
from hangtag.choose.measuring import Measured
from hangtag.output import writing
from hangtag.page.drawing import draw_front, plain_log_axis
from hangtag.page.series import looks
from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.statistics.intervals import wilson

HEADERS = ("", "sent on", "right", "lost", "µs", "calls/s", "p99", "lacks")
"""The headers of the table. "lost" is the number of samples that are wrong although the cascade's last model is right.
`hangtag route tune` measures no speed, so it shows only the first RESULTS columns."""
RESULTS = 5


def cells(one: Candidate, wanted: Wanted) -> list[str]:
    return [
        one.label,
        ", ".join(f"{share:.1%}" for share in one.reached[1:]),
        f"{one.accuracy:.2%}",
        f"{one.lost:,}" if one.is_cascade else "",
        f"{one.cost * 1e6:,.0f}",
        f"{'≤ ' * one.is_predicted}{units.three_digits(one.throughput)}",
        f"{'≥ ' * one.is_predicted}{units.duration(one.p99)}",
        ", ".join(wanted.missed_by(one)),
    ]


def sentences(listed: Sequence[Candidate], wanted: Wanted, measured: Measured) -> list[str]:
    """Say which candidate to serve and why, or which candidate is nearest to the requirements and what it lacks."""
    one, missed = listed[0], wanted.missed_by(listed[0])
    load = f"with {IN_FLIGHT} in flight" if wanted.rate is None else f"at {wanted.rate:g} calls/s"
    p99 = "" if wanted.p99 is None else f" and p99 within {units.duration(wanted.p99)}"
    asked = f"{wanted.accuracy:.2%} right{p99}{f' {load}' if p99 or wanted.rate is not None else ''}"
    if not missed:
        lines = [f"Serve {one.label}, which is the fastest candidate with {asked}."]
    elif missed == ["valid load test"]:
        lines = [f"Nothing is chosen, because the load test of {one.label} is invalid. Repeat it on an idle machine."]
    else:
        lines = [
            f"No candidate has {asked}. The nearest is {one.label}, but it lacks the required {' and '.join(missed)}."
        ]
        if more := sum(not wanted.missed_by(other) for other in listed):
            lines.append(f"{more} other candidates may meet the requirements. Load-test them with a larger --try.")
    interval = wilson(round(one.accuracy * len(measured.images)), len(measured.images))
    *_, throughput, latency, _ = cells(one, wanted)
    lines += [
        f"Of {result(one, measured)}.",
        f"On new pictures of the same kind, the accuracy is {interval.low:.2%} to {interval.high:.2%} with 95 % "
        "confidence, unless a model's best epoch was chosen by these images.",
        f"{'Predicted, without a load test' if one.is_predicted else 'Measured'}: "
        f"{throughput} calls/s with {IN_FLIGHT} in flight, p99 {latency} {load}.",
    ]
    lines += [f"The load test is invalid: {problem}." for problem in one.problems]
    return lines + ([f"The figures are doubtful: {one.doubt}."] if one.doubt else [])


def result(one: Candidate, measured: Measured) -> str:
    """State the accuracy on the samples. For a cascade, add the share of samples that each later model receives, each
    model's own accuracy, and the number of lost samples (see `candidates`) with an upper bound."""
    right, samples = f"{one.accuracy:.2%} are right", len(measured.images)
    if not one.is_cascade:
        return f"{measured.shown}, {right}"
    at_most = math.ceil(1e5 * bound(samples, one.lost)) / 1e5  # an upper bound is rounded up
    shares = [f"{share:.1%} to {model.name}" for share, model in zip(one.reached, one.models, strict=True)][1:]
    alone = [f"{model.file.name}@{model.file.version} {model.right.mean():.2%}" for model in one.models]
    return (
        f"{measured.shown}, {' and '.join(shares).replace(' to', ' go on to', 1)}, and {right}; "
        f"{', '.join(alone).replace(' ', ' alone has ', 1)}; {one.lost:,} of {samples:,} "
        f"{'is' if one.lost == 1 else 'are'} wrong although {one.models[-1].name} is right; of new images, at most "
        f"{at_most:.3%} with {CONFIDENCE:.0%} confidence"
    )


def draw(candidates: Sequence[Candidate], file: Path) -> None:
    """Draw accuracy against cost as a PNG file, with the Pareto front as a dashed line. Raises OutputError if the file
    cannot be written.

    Every single model, every candidate on the Pareto front, and the first candidate are drawn with a marker. The first
    candidate's marker is larger. For each cascade that has a marker, a line shows the cascade's results at all
    thresholds. Long or many names make the picture larger, but not the axes smaller.
    """
    figure = Figure((7, 5))
    axes = figure.subplots()
    front = draw_front(axes, map(_place, candidates), ink="0.5")
    marked = [one for one in candidates if one is candidates[0] or not one.is_cascade or _place(one) in front]
    # The single models get their colours first, so that no cascade takes the colour of a model.
    look_of = looks(one.label for one in sorted(marked, key=lambda one: (one.is_cascade, one.label)))
    for one in marked:
        look = look_of[one.label]
        if one.is_cascade:
            axes.plot(*zip(*map(_place, curve(one.models)), strict=True), color=look.colour, linewidth=1, alpha=0.6)
        size = 11 if one is candidates[0] else 6
        axes.plot(*_place(one), look.marker, color=look.colour, markersize=size, zorder=3, label=one.label)
    axes.set_xscale("log")
    plain_log_axis(axes.xaxis, *axes.get_xlim())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g} µs"))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("CPU time per sample, measured in full batches (dashed: Pareto front)")
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    with writing(file):
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight")


def _place(candidate: Candidate) -> tuple[float, float]:
    """Return the coordinates of a candidate in the chart: microseconds per sample, and the accuracy."""
    return candidate.cost * 1e6, candidate.accuracy
