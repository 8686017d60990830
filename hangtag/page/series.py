"""How each model looks in every picture, table and card: its own colour and mark, the same in every document."""

import re
import zlib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import NamedTuple

from hangtag.page.drawing import SERIES, colour, series_variable

# Matplotlib's markers, and the same marks as characters.
_MARKS = (
    ("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"),
    ("P", "✚"), ("X", "✖"), ("<", "◀"), (">", "▶"), ("*", "★"),
)  # fmt: skip
# With this number before each name, the names of the shipped models have different colours.
_SALT = 107


class Look(NamedTuple):
    """The look of one series.

    Attributes:
        colour: For `drawing`.
        variable: The style sheet's variable for the same colour.
        marker: Matplotlib's marker.
        sign: The same mark as a character.
        paper: The same colour for a light background without a style sheet.
    """

    colour: str
    variable: str
    marker: str
    sign: str
    paper: str


@cache
def paper_colours() -> tuple[str, ...]:
    """The colours of all series on a light ground, which the style sheet names first."""
    style = resources.files("hangtag.page").joinpath("templates/style.css").read_text()
    return tuple(re.findall(r"--series-\d: (#\w+);", style)[:SERIES])


def looks(names: Iterable[str]) -> dict[str, Look]:
    """The look of each name in a document.

    A name has the same colour in every document, unless an earlier name in the document has taken that colour. Two
    names never share colour and mark, and up to ten names share neither. The server's page chooses its colours in the
    same way (serving/server/transport/http/page/static/models/colours.js).
    """
    taken: set[tuple[int, int]] = set()
    chosen = {}
    for name in names:
        first = zlib.crc32(f"{_SALT}{name}".encode()) % SERIES
        order = [((first + step) % SERIES, turn) for turn in range(len(_MARKS)) for step in range(SERIES)]
        place = next((each for each in order if each not in taken), order[0])
        taken.add(place)
        number, turn = place
        marker, sign = _MARKS[(number + turn) % len(_MARKS)]
        chosen[name] = Look(colour(number), series_variable(number), marker, sign, paper_colours()[number])
    return chosen
