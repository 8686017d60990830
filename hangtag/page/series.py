"""Gives each model a colour and a marker, which all pictures, tables and cards use."""

import re
import zlib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import NamedTuple

from hangtag.page.drawing import SERIES, colour, series_variable

# Pairs of a matplotlib marker and a character that looks like it.
_MARKS = (
    ("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"),
    ("P", "✚"), ("X", "✖"), ("<", "◀"), (">", "▶"), ("*", "★"),
)  # fmt: skip
# This number is hashed together with each name. It was chosen so that all shipped models have different colours.
_SALT = 107


class Look(NamedTuple):
    """The colour and the marker of one series."""

    colour: str  # the placeholder colour to draw with; `drawing` replaces it with ``variable``
    variable: str  # the style sheet's variable for the colour
    marker: str  # the marker in matplotlib's notation
    sign: str  # a character that looks like the marker, for text
    paper: str  # the colour on a light background, for pictures without a style sheet


@cache
def paper_colours() -> tuple[str, ...]:
    """Read the series' colours for light mode from the style sheet, which lists them before those for dark mode."""
    style = resources.files("hangtag.page").joinpath("templates/style.css").read_text()
    return tuple(re.findall(r"--series-\d: (#\w+);", style)[:SERIES])


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Choose a colour and a marker for each name in a document.

    A name has the same colour in every document, unless an earlier name in the document has that colour. Two names
    differ in colour or in marker. In a document with up to ten names, no two names share a colour or a marker. The
    server's page chooses colours in the same way (serving/server/transport/http/page/static/models/colours.js).
    """
    taken: set[tuple[int, int]] = set()
    chosen = {}
    for name in names:
        first = zlib.crc32(f"{_SALT}{name}".encode()) % SERIES
        order = [((first + step) % SERIES, turn) for turn in range(len(_MARKS)) for step in range(SERIES)]
        number, turn = next((each for each in order if each not in taken), order[0])
        taken.add((number, turn))
        marker, sign = _MARKS[(number + turn) % len(_MARKS)]
        chosen[name] = Look(colour(number), series_variable(number), marker, sign, paper_colours()[number])
    return chosen
