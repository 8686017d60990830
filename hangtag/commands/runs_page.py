"""Write the learning curves of runs as one self-contained HTML page, without scripts and without other files."""

import io
from collections.abc import Sequence

import jinja2
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hangtag.commands import runs_view
from hangtag.training.runs.overview import FIGURES, RunOverview

_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2")
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
table { border-collapse: collapse; } div { overflow-x: auto; }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid #8884; white-space: nowrap; }
svg { max-width: 100%; height: auto; background: #fff; border-radius: .5rem; }
</style>
<h1>{{ title }}</h1>
{% for heading, picture in pictures %}
<h2>{{ heading }}</h2>
{{ picture }}
{% endfor %}
<h2>Figures and settings</h2>
<div><table>
<tr><th></th>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{% for key in runs[0] %}
<tr><th>{{ key }}</th>{% for run in runs %}<td>{{ run[key] }}</td>{% endfor %}</tr>
{% endfor %}
{% for key, values in differences.items() %}
<tr><th>{{ key }}</th>{% for value in values %}<td>{{ value if value is not none else "-" }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
"""


def page(runs: Sequence[RunOverview], published: runs_view.Published) -> str:
    """Draw the learning curves of one or several runs, above a table of their figures and of settings that differ."""
    figures = dict.fromkeys(run.figure for run in runs)
    pictures = [(f"{FIGURES[figure]} by epoch", _curves(runs, figure, percent=True)) for figure in figures]
    template = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined).from_string(
        _PAGE
    )
    return template.render(
        title=", ".join(run.folder.name for run in runs),
        pictures=[*pictures, ("loss by epoch", _curves(runs, "loss", percent=False))],
        names=[run.folder.name for run in runs],
        runs=[runs_view.cells(run, published) for run in runs],
        differences=runs_view.differences(runs) if len(runs) > 1 else {},
    )


def _curves(runs: Sequence[RunOverview], figure: str, *, percent: bool) -> Markup:
    """Validation as a solid line, training as a dashed one; a dot at the epoch whose weights were kept."""
    drawing = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasSVG(drawing)
    axes = drawing.subplots()
    for number, run in enumerate(runs):
        colour = _COLOURS[number % len(_COLOURS)]
        for split, style in (("validation", "-"), ("train", "--")):
            points = [(row["epoch"], row[key]) for row in run.rows if (key := f"{split}_{figure}") in row]
            if points:
                label = f"{run.folder.name}, {'training' if split == 'train' else split}"
                axes.plot(*zip(*points, strict=True), style, color=colour, label=label, linewidth=1.5)
            best = [point for point in points if split == "validation" and point[0] == run.best_epoch]
            if best:
                axes.plot(*best[0], "o", color=colour)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    drawing.savefig(text, format="svg", metadata={"Date": None})
    return Markup(text.getvalue()[text.getvalue().index("<svg") :])  # noqa: S704  (drawn here)
