"""Draw the report's pictures, as SVG text that is embedded in the page."""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl

mpl.use("svg")

import numpy as np
from matplotlib.figure import Figure

from hangtag.export.arrays import Array, Pixels

COLOURS = ("#4269d0", "#efb118", "#3ca951", "#a463f2")


def error_histogram(differences: Array, limit: float, quantity: str) -> str:
    """Draw how far answers are from PyTorch's, from the largest difference of each image, [n]."""
    figure = Figure(figsize=(6.2, 2.6), layout="constrained")
    axes = figure.subplots()
    floor = 1e-9
    edges = np.logspace(np.log10(floor), np.log10(max(limit, differences.max(), 1e-8) * 1.5), 50)
    axes.hist(np.maximum(differences, floor), bins=edges.tolist(), color=COLOURS[0])
    axes.axvline(limit, color="#c0392b", linewidth=1.2)
    axes.annotate(f"allowed {limit:.2g}", (limit, 1.0), xycoords=("data", "axes fraction"), ha="right", va="bottom",
                  color="#c0392b", xytext=(-4, 0), textcoords="offset points")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel(f"largest difference of a {quantity} from PyTorch's (the left edge is no difference)")
    axes.set_ylabel("images")
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def agreement(expected: Array, answered: Array, labels: Sequence[str]) -> str:
    """Draw, for each label, in which share of PyTorch's answers with it the file agrees. Both are bool [n, labels]."""
    figure = Figure(figsize=(6.2, 2.9), layout="constrained")
    axes = figure.subplots()
    counts, places = expected.sum(axis=0), np.arange(len(labels))
    shares = np.where(counts > 0, (expected & answered).sum(axis=0) / np.maximum(counts, 1), np.nan)
    axes.barh(places, shares, color=COLOURS[0])
    lowest = float(np.nanmin(shares, initial=1.0))
    for place, share in zip(places, shares, strict=True):
        if np.isfinite(share):
            axes.annotate(f"{share:.2%}", (share, place), xytext=(-3, 0), textcoords="offset points", va="center",
                          ha="right", color="white")  # fmt: skip
    axes.set_yticks(places, list(labels))
    axes.invert_yaxis()
    axes.set_xlim(max(0.0, min(0.9, lowest - 0.05)), 1.0)
    axes.set_xlabel("share of PyTorch's answers that the file gives too")
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def speed(milliseconds: Mapping[int, Mapping[str, float]]) -> str:
    """Draw median milliseconds for a batch: one panel per batch size, one bar per contender."""
    figure = Figure(figsize=(6.2, 0.7 + 0.32 * max(map(len, milliseconds.values()))), layout="constrained")
    panels = figure.subplots(1, len(milliseconds), squeeze=False)[0]
    for axes, (size, times) in zip(panels, milliseconds.items(), strict=True):
        places = np.arange(len(times))
        axes.barh(places, list(times.values()), color=COLOURS[: len(times)])
        for place, value in zip(places, times.values(), strict=True):
            axes.annotate(f"{value:.3g} ms", (value, place), xytext=(3, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, list(times))
        axes.invert_yaxis()
        axes.set_xlim(0, max(times.values()) * 1.35)
        axes.set_title(f"batch {size}", loc="left", fontsize=9)
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    return _svg(figure)


def image(pixels: Pixels) -> str:
    """Draw one image, [height, width], with sharp pixels."""
    height, width = pixels.shape
    figure = Figure(figsize=(width / 28, height / 28))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(pixels, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    axes.axis("off")
    return _svg(figure)


def _svg(figure: Figure) -> str:
    with mpl.rc_context({"svg.hashsalt": "hangtag", "svg.fonttype": "none"}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
