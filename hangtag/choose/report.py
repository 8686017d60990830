"""Reports a choice and its reasons as a table, in sentences and as a page, and describes a route that was chosen."""

from collections.abc import Sequence
from datetime import UTC, datetime

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, PercentFormatter

from hangtag.choose.candidates import CONFIDENCE, Candidate, Outcome, curve, may_lose
from hangtag.choose.choice import LOSE, Wanted, best_single
from hangtag.choose.measuring import Measured
from hangtag.choose.queueing import IN_FLIGHT
from hangtag.page.drawing import BAD, INK, colour, draw_front, drawing, plain_log_axis
from hangtag.page.label_placement import Label, place
from hangtag.page.templates import environment
from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.statistics.intervals import wilson

HEADERS = ("", "right", "µs", "calls/s", "predicted", "p99", "predicted", "lacks")
"""The headers of the table."""
_MISSED = {
    "accuracy": "its accuracy is lower",
    "rate": "it cannot answer that many calls",
    "valid": "its load test is invalid",
    "p99": "its p99 is longer",
}


def cells(one: Candidate, wanted: Wanted) -> list[str]:
    """Return the cells of a candidate's row. The prediction follows each measured value."""
    return [
        one.label,
        f"{one.accuracy:.2%}",
        f"{one.cost * 1e6:,.0f}",
        units.three_digits(one.tested.throughput) if one.tested else "",
        units.three_digits(one.predicted.throughput),
        units.duration(one.tested.p99) if one.tested else "",
        _p99(one.predicted),
        ", ".join(wanted.missed_by(one)),
    ]


def sentences(listed: Sequence[Candidate], wanted: Wanted, measured: Measured) -> list[str]:
    """Say which candidate to serve and why, or which candidate is nearest and which requirements it misses."""
    one, figures, missed = listed[0], listed[0].figures, wanted.missed_by(listed[0])
    load = f"with {IN_FLIGHT} in flight" if wanted.rate is None else f"at {wanted.rate:g} calls/s"
    asked = f"{wanted.accuracy:.2%} right"
    if wanted.p99 is not None:
        asked += f" and p99 within {units.duration(wanted.p99)} {load}"
    elif wanted.rate is not None:
        asked += f" and {wanted.rate:g} calls/s"
    if not missed:
        lines = [f"Serve {one.label}, which is the fastest candidate with {asked}."]
    elif missed == ["valid"]:
        lines = [f"Nothing is chosen, because the load test of {one.label} is invalid. Repeat it on an idle machine."]
    else:
        why = " and ".join(_MISSED[each] for each in missed)
        lines = [f"No candidate has {asked}. The nearest is {one.label}, but {why}."]
        if more := sum(not wanted.missed_by(other) for other in listed):
            lines.append(
                f"{more} other candidates are predicted to meet the requirements. Load-test them with a larger --try."
            )
    samples = len(measured.images)
    interval = wilson(round(one.accuracy * samples), samples)
    lines += [
        f"Of {measured.shown}, {one.accuracy:.2%} are classified correctly. On new pictures of the same kind, "
        f"the accuracy is {interval.low:.2%} to {interval.high:.2%} with 95 % confidence.",
        f"{'Measured' if one.tested else 'Predicted without the overhead of a call (see --try)'}: "
        f"{units.three_digits(figures.throughput)} calls/s with {IN_FLIGHT} in flight, p99 {_p99(figures)} {load}.",
    ]
    if measured.chose_epochs:
        lines.append("The models' best epochs were chosen by these images, so the accuracy for other images is lower.")
    if one.is_cascade:
        lines.append(f"Of these images, {sent_on(one)}; {lost(one, samples)}.")
        if may_lose(samples, 0) > wanted.lose_at_most:
            lines.append(
                f"{samples:,} images are too few to show that a cascade loses at most {LOSE:.2%}. At least 2,995 "
                "images are needed."
            )
        if rival := best_single(listed, wanted):
            lines.append(
                f"The best single model would be {rival.name}, with {rival.accuracy:.2%} right, "
                f"{units.three_digits(rival.figures.throughput)} calls/s and p99 {_p99(rival.figures)}."
            )
    lines += [f"The load test is invalid: {problem}." for problem in figures.problems]
    return lines + ([f"The figures are doubtful: {figures.doubt}."] if figures.doubt else [])


def _p99(figures: Outcome) -> str:
    return "no end" if figures.p99 == float("inf") else units.duration(figures.p99)


def sent_on(cascade: Candidate) -> str:
    """Say what share of the samples each model after the first receives: '16.8% go on to lstm2 and 13.4% to cnn'."""
    _, *shares = zip(cascade.reached, cascade.models, strict=True)
    return " and ".join(f"{share:.1%} to {model.name}" for share, model in shares).replace(" to", " go on to", 1)


def lost(cascade: Candidate, samples: int) -> str:
    """Say how many samples the cascade loses, and give an upper bound on the share for new samples."""
    return (
        f"{cascade.lost:,} of {samples:,} {'is' if cascade.lost == 1 else 'are'} wrong although "
        f"{cascade.models[-1].name} is right; of new images, at most {may_lose(samples, cascade.lost):.2%} with "
        f"{CONFIDENCE:.0%} confidence"
    )


def description(cascade: Candidate, measured: Measured, command: str) -> str:
    """Describe how a route's threshold was chosen: by which command, by which images, and with which results."""
    alone = [f"{model.file.name}@{model.file.version} {model.right.mean():.2%}" for model in cascade.models]
    return (
        f"Chosen by '{command}' on {datetime.now(UTC):%Y-%m-%d}: of {measured.shown}, {sent_on(cascade)}, and "
        f"{cascade.accuracy:.2%} are right; {', '.join(alone).replace(' ', ' alone has ', 1)}; "
        f"{lost(cascade, len(measured.images))}."
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
    """Draw a labelled marker for each candidate on the Pareto front, for the first candidate and for each single model,
    and for each cascade with a marker a line of its results at all thresholds."""
    with drawing("front", "Accuracy against the processor time of a sample", (6.6, 4.4)) as drawn:
        axes = drawn.axes
        front = draw_front(axes, [_place(one) for one in candidates])
        marked = [one for one in candidates if one is candidates[0] or not one.is_cascade or _place(one) in front]
        for number, one in enumerate(one for one in marked if one.is_cascade):
            axes.plot(*zip(*map(_place, curve(one.models)), strict=True), color=colour(number), linewidth=1, alpha=0.6)
        for one in marked:
            size, ink = (7, BAD) if one is candidates[0] else (5, INK)
            axes.plot(*_place(one), "o", color=ink, markersize=size, zorder=3)
        axes.set_xscale("log")
        axes.margins(0.12, 0.12)
        plain_log_axis(axes.xaxis, *axes.get_xlim())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g} µs"))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.set_xlabel("processor time of a sample, in full batches")
        axes.set_ylabel("accuracy")
        place(axes, [Label(one.label, *_place(one), radius=4) for one in marked])
    return drawn.svg


def _place(candidate: Candidate) -> tuple[float, float]:
    """Return the coordinates of a candidate in the picture: microseconds per sample, and the accuracy."""
    return candidate.cost * 1e6, candidate.accuracy
