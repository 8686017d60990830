"""Gives each model a colour and a marker, which all pictures, tables and cards use."""

import zlib
from collections.abc import Iterable
from typing import NamedTuple

from hangtag.page.drawing import COLOURS, SERIES

# Pairs of a matplotlib marker and a character that looks like it.
_MARKS = (
    ("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"),
    ("P", "✚"), ("X", "✖"), ("<", "◀"), (">", "▶"), ("*", "★"),
)  # fmt: skip
# This number is hashed together with each name. It was chosen so that all shipped models have different colours.
_SALT = 354


class Look(NamedTuple):
    colour: str  # the colour on a light background; `drawing` replaces this value with ``variable``
    variable: str  # the style sheet's variable for the colour
    marker: str  # the marker in matplotlib's notation
    sign: str  # a character that looks like the marker and stands for it in text


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Choose a colour and a marker for each name in a document.

    A name has the same colour in every document, unless an earlier name in the document has that colour. Any two names
    differ in colour or in marker. Among up to ten names, no two share a colour or a marker. The server's page chooses
    colours in the same way (serving/server/transport/http/page/static/models/colours.js).
    """
    taken: set[tuple[int, int]] = set()
    chosen = {}
    for name in names:
        count = len(COLOURS)
        first = zlib.crc32(f"{_SALT}{name}".encode()) % count
        order = [((first + step) % count, turn) for turn in range(len(_MARKS)) for step in range(count)]
        number, turn = next((each for each in order if each not in taken), order[0])
        taken.add((number, turn))
        marker, sign = _MARKS[(number + turn) % len(_MARKS)]
        chosen[name] = Look(COLOURS[number], SERIES[number], marker, sign)
    return chosen
