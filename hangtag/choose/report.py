"""Reports a choice and its reasons as a table, in sentences and as a page, and describes a route that was chosen."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, PercentFormatter

from hangtag.choose.candidates import CONFIDENCE, IN_FLIGHT, LOSE, Candidate, Wanted, best_single, bound, curve
from hangtag.choose.measuring import Measured
from hangtag.page.drawing import draw_front, drawing, plain_log_axis
from hangtag.page.label_placement import Label, place
from hangtag.page.series import looks
from hangtag.page.templates import environment
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
        f"{'≤ ' * one.figures.is_predicted}{units.three_digits(one.figures.throughput)}",
        f"{'≥ ' * one.figures.is_predicted}{units.duration(one.figures.p99)}",
        ", ".join(wanted.missed_by(one)),
    ]


def sentences(listed: Sequence[Candidate], wanted: Wanted, measured: Measured) -> list[str]:
    """Say which candidate to serve and why, or which candidate is nearest and which requirements it misses."""
    one, figures, missed = listed[0], listed[0].figures, wanted.missed_by(listed[0])
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
    samples = len(measured.images)
    interval = wilson(round(one.accuracy * samples), samples)
    *_, throughput, latency, _ = cells(one, wanted)
    lines += [
        f"Of {result(one, measured)}.",
        f"On new pictures of the same kind, the accuracy is {interval.low:.2%} to {interval.high:.2%} with 95 % "
        "confidence.",
        f"{'Predicted, without a load test' if figures.is_predicted else 'Measured'}: "
        f"{throughput} calls/s with {IN_FLIGHT} in flight, p99 {latency} {load}.",
    ]
    if measured.chose_epochs:
        lines.append("The models' best epochs were chosen by these images, so the accuracy for other images is lower.")
    if one.is_cascade and bound(samples, 0) > wanted.lose_at_most:
        lines.append(
            f"{samples:,} images are too few to show that the cascade is wrong and {one.models[-1].name} is right for "
            f"at most {LOSE:.2%} of all images. At least 2,995 images are needed."
        )
    if one.is_cascade and (rival := best_single(listed, wanted)):
        name, _, right, *_, throughput, latency, _ = cells(rival, wanted)
        lines.append(
            f"The best single model would be {name}, with {right} right, {throughput} calls/s and p99 {latency}."
        )
    lines += [f"The load test is invalid: {problem}." for problem in figures.problems]
    return lines + ([f"The figures are doubtful: {figures.doubt}."] if figures.doubt else [])


def result(one: Candidate, measured: Measured) -> str:
    """State the accuracy on the samples. For a cascade, add the share of samples that each later model receives, each
    model's own accuracy, and how many samples are wrong although the last model is right, with an upper bound."""
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


def page(listed: Sequence[Candidate], wanted: Wanted, measured: Measured) -> str:
    """Return an HTML page with the reasons, a picture of accuracy against cost, and a table of all candidates."""
    template = environment("hangtag.choose").get_template("choose.html.j2")
    return template.render(
        is_met=not wanted.missed_by(listed[0]),
        title=listed[0].label,
        sentences=sentences(listed, wanted, measured),
        picture=Markup(_picture(listed)),  # noqa: S704  (drawn here)
        headers=HEADERS,
        rows=[cells(one, wanted) for one in listed],
        written=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
    )


def _picture(candidates: Sequence[Candidate]) -> str:
    """Draw a labelled marker for each single model, the first candidate, and each candidate on the Pareto front. For
    each cascade that has a marker, draw a line through its results at all thresholds."""
    with drawing("front", "Accuracy against the CPU time per sample", (6.6, 4.4)) as drawn:
        axes = drawn.axes
        front = draw_front(axes, [_place(one) for one in candidates])
        marked = [one for one in candidates if one is candidates[0] or not one.is_cascade or _place(one) in front]
        # A cascade must not take the colour of a model, so the models choose first.
        look_of = looks(one.label for one in sorted(marked, key=lambda one: (one.is_cascade, one.label)))
        labels = []
        for one in marked:
            look = look_of[one.label]
            if one.is_cascade:
                points = zip(*map(_place, curve(one.models)), strict=True)
                axes.plot(*points, color=look.colour, linewidth=1, alpha=0.6)
            size = 10 if one is candidates[0] else 5
            axes.plot(*_place(one), look.marker, color=look.colour, markersize=size, zorder=3)
            labels.append(Label(one.label, *_place(one), radius=size / 2, colour=look.colour))
        axes.set_xscale("log")
        axes.margins(0.12, 0.12)
        plain_log_axis(axes.xaxis, *axes.get_xlim())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g} µs"))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("CPU time per sample, measured in full batches")
        axes.set_ylabel("accuracy")
        place(axes, labels)
    return drawn.svg


def _place(candidate: Candidate) -> tuple[float, float]:
    """Return the coordinates of a candidate in the chart: microseconds per sample, and the accuracy."""
    return candidate.cost * 1e6, candidate.accuracy
