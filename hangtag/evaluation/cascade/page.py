"""Draws the curves of a cascade, and writes them as one self-contained HTML page, without scripts and other files."""

from collections.abc import Sequence
from datetime import UTC, datetime

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hangtag.evaluation.cascade import route_text
from hangtag.evaluation.cascade.curve import Curve, Point
from hangtag.evaluation.cascade.members import Members
from hangtag.page.drawing import BAD, INK, colour, drawing
from hangtag.page.environment import environment
from hangtag.page.labels import Label, place


def page(members: Members, tried: Curve, chosen: Point, route: str, lose_at_most: float) -> str:
    """The page, as HTML.

    Args:
        route: The route's name.
        lose_at_most: Points of accuracy, as on the command line.
    """
    names, times = members.names, members.microseconds
    last = names[-1]
    return (
        environment("hangtag.evaluation.cascade")
        .get_template("cascade.html.j2")
        .render(
            route=route,
            names=names,
            threshold=f"{chosen.threshold:g}",
            expectation=f"{route_text.sent_on(names, chosen)}, and an image costs {chosen.cost(times):.2f} of what "
            f"{last} alone takes.",
            images=members.images,
            lose_at_most=f"{lose_at_most:g}",
            pictures={
                f"Accuracy and what goes on to {last}": _picture(
                    "sent-on", tried, chosen, names, [point.sent_on for point in tried.points],
                    [0.0, 1.0], f"share of the images that goes on to {last}",
                ),
                f"Accuracy and cost, {last} alone being 1": _picture(
                    "cost", tried, chosen, names, [point.cost(times) for point in tried.points],
                    [times[0] / times[-1], 1.0], f"time for an image, of what {last} alone takes",
                ),
            },
            models=[
                (f"{file.name} version {file.version}", f"{accuracy:.2%}", f"{microseconds:,.0f} µs")
                for file, accuracy, microseconds in zip(members.files, tried.alone, times, strict=True)
            ],
            points=[
                (
                    f"{point.threshold:g}",
                    [f"{share:.1%}" for share in point.reached[1:]],
                    f"{point.accuracy:.2%}",
                    f"{100 * (point.accuracy - tried.alone[-1]):+.2f}",
                    f"{point.cost(times):.2f}",
                    point is chosen,
                )
                for point in tried.shown(chosen)
            ],
            written=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        )
    )  # fmt: skip


def _picture(
    identifier: str, tried: Curve, chosen: Point, names: Sequence[str], across: Sequence[float],
    ends: Sequence[float], axis: str,
) -> Markup:  # fmt: skip
    """Accuracy over a share, a point for each threshold. ends: where the first and the last model alone are."""
    with drawing(identifier, f"Accuracy of the cascade over the {axis}") as picture:
        axes = picture.axes
        axes.plot(across, [point.accuracy for point in tried.points], color=colour(0), zorder=2)
        at = across[tried.points.index(chosen)]
        axes.plot(at, chosen.accuracy, "o", color=BAD, markersize=7, zorder=3)
        for end, accuracy in zip(ends, (tried.alone[0], tried.alone[-1]), strict=True):
            axes.plot(end, accuracy, "o", color=INK, markersize=5, zorder=3)
        axes.set_xlabel(axis)
        axes.set_ylabel("accuracy")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.margins(0.08, 0.12)
        _label(axes, [(at, chosen.accuracy, f"{chosen.threshold:g}")])
        _label(axes, [(ends[0], tried.alone[0], names[0]), (ends[1], tried.alone[-1], names[-1])])
    return Markup(picture.svg)  # noqa: S704  (drawn here)


def _label(axes: Axes, texts: Sequence[tuple[float, float, str]]) -> None:
    place(axes, [Label(text, x, y, radius=4) for x, y, text in texts])
