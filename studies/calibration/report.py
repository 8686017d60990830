"""Writes docs/models.md, of which calibration is a section, and draws the reliability diagram."""

from matplotlib.figure import Figure

from studies.calibration import section
from studies.pictures import Picture
from studies.shipped import report as shipped
from studies.shipped.measured import REPOSITORY
from studies.shipped.models import read_all


def _reliability() -> Figure:
    return section.diagram(section.read(read_all(REPOSITORY)))


PARTS = tuple(part for part in shipped.PARTS if part.page == "docs/models.md")
PICTURES = (Picture("reliability.png", _reliability),)
