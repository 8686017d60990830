"""Draw the report's pictures, as SVG text and images that are embedded in the page."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from hangtag.export.arrays import Array
from hangtag.page.drawing import BAD, INK, colour, drawing

_WIDTH = 4.4  # inches
_FLOOR = 1e-9
"""Smaller differences, and none, are drawn as this one."""
_EXPONENTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def error_histogram(differences: Array, limit: float, quantity: str) -> str:
    """Draw how far answers are from PyTorch's, from the largest difference of each image, [n]."""
    with drawing("differences", "How far answers are from PyTorch's") as picture:
        axes = picture.axes
        edges = np.logspace(np.log10(_FLOOR), np.log10(max(limit, differences.max(), 1e-8) * 1.5), 50)
        axes.hist(np.maximum(differences, _FLOOR), bins=edges.tolist(), color=colour(0))
        axes.axvline(limit, color=BAD, linewidth=1.2)
        axes.annotate(f"allowed {limit:.2g}", (limit, 1.0), xycoords=("data", "axes fraction"), ha="right", va="bottom",
                      color=BAD, xytext=(0, 2), textcoords="offset points")  # fmt: skip
        axes.set_xscale("log")
        decades = np.arange(np.log10(_FLOOR), np.log10(edges[-1]))
        axes.xaxis.set_major_locator(FixedLocator((10**decades).tolist()))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"largest difference of a {quantity} from PyTorch's")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_ylabel("images")
    return picture.svg


def disagreement(expected: Array, answered: Array, labels: Sequence[str]) -> str | None:
    """Draw, for each label, how many of PyTorch's answers with it the file does not give; None if it gives all.

    Both are bool [n, labels].
    """
    counts, missed = expected.sum(axis=0), (expected & ~answered).sum(axis=0)
    if not (expected != answered).any():
        return None
    with drawing("disagreement", "Answers that are not PyTorch's", (_WIDTH, 0.8 + 0.21 * len(labels))) as picture:
        axes = picture.axes
        places = np.arange(len(labels))
        axes.barh(places, missed, color=colour(0), zorder=2)
        for place, (count, of) in enumerate(zip(missed.tolist(), counts.tolist(), strict=True)):
            axes.annotate(f"{count:,} of {of:,}", (count, place), xytext=(3, 0), textcoords="offset points",
                          va="center", fontsize=8)  # fmt: skip
        axes.set_yticks(places, list(labels))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, max(1, int(missed.max())) * 1.35)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("answers that the file does not give")
    return picture.svg


def speed(milliseconds: Mapping[int, Mapping[str, float]]) -> str:
    """Draw median milliseconds for a batch: one panel per batch size, one bar per contender."""
    contenders = list(next(iter(milliseconds.values())))
    size = (_WIDTH, 0.9 + 0.32 * len(contenders))
    with drawing("speed", "How long a batch takes", size, panels=len(milliseconds)) as picture:
        for panel, (axes, (batch, times)) in enumerate(zip(picture.panels, milliseconds.items(), strict=True)):
            for place, value in enumerate(times.values()):
                axes.barh(place, value, color=colour(place), zorder=2)
                axes.annotate(f"{value:.3g}", (value, place), xytext=(3, 0), textcoords="offset points", va="center")
            axes.set_yticks(range(len(times)), contenders if panel == 0 else [""] * len(times))
            axes.invert_yaxis()
            axes.grid(visible=False, axis="y")
            axes.set_xlim(0, max(times.values()) * 1.35)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.set_title(f"batch {batch}, ms", loc="left", fontsize=9, color=INK)
    return picture.svg


def _power(value: float) -> str:
    return "none" if value <= _FLOOR else "10" + str(round(np.log10(value))).translate(_EXPONENTS)
