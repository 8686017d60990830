"""Makes the HTML page of a choice: the reasons, a picture of accuracy against cost, and a table of all candidates."""

from collections.abc import Sequence
from datetime import UTC, datetime

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, PercentFormatter

from hangtag.choose import report
from hangtag.choose.candidates import Candidate
from hangtag.choose.choice import Choice
from hangtag.page.drawing import BAD, INK, colour, draw_front, drawing, plain_log_axis
from hangtag.page.label_placement import Label, place
from hangtag.page.templates import environment

_SIZE = (6.6, 4.4)
_MICROSECONDS = 1e6


def page(choice: Choice) -> str:
    """Return the page as HTML."""
    chosen = choice.nearest.candidate
    picture = _picture([row.candidate for row in choice.rows], chosen)
    return (
        environment("hangtag.choose")
        .get_template("choose.html.j2")
        .render(
            verdict="chosen" if choice.is_met else "the nearest",
            title=chosen.label,
            sentences=report.sentences(choice),
            picture=Markup(picture),  # noqa: S704  (drawn here)
            headers=report.HEADERS,
            rows=[report.cells(choice, row) for row in choice.rows],
            written=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        )
    )


def _picture(candidates: Sequence[Candidate], chosen: Candidate) -> str:
    """Draw the candidates on the Pareto front, the chosen candidate and the single models as marks with names.

    For each marked cascade, a line joins the results at all its thresholds, although only one threshold is a candidate.
    A dashed line is the Pareto front of the candidates.
    """
    with drawing("front", "Accuracy against the processor time of a sample", _SIZE) as drawn:
        axes, labels = drawn.axes, list[Label]()
        places = [(one.cost * _MICROSECONDS, one.accuracy) for one in candidates]
        front = draw_front(axes, places)
        known = zip(candidates, places, strict=True)
        marked = [one for one, at in known if one is chosen or not one.is_cascade or at in front]
        for number, one in enumerate(one for one in marked if one.is_cascade):
            across = [one.cost_at(point) * _MICROSECONDS for point in one.tried]
            axes.plot(across, [point.accuracy for point in one.tried], color=colour(number), linewidth=1, alpha=0.6)
        for one in marked:
            x, mark = one.cost * _MICROSECONDS, BAD if one is chosen else INK
            axes.plot(x, one.accuracy, "o", color=mark, markersize=7 if one is chosen else 5, zorder=3)
            labels.append(Label(one.label, x, one.accuracy, radius=4))
        axes.set_xscale("log")
        axes.margins(0.12, 0.12)
        plain_log_axis(axes.xaxis, *axes.get_xlim())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g} µs"))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.set_xlabel("processor time of a sample, in full batches")
        axes.set_ylabel("accuracy")
        place(axes, labels)
    return drawn.svg
