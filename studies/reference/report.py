"""Writes the tables of docs/operations.md from the declarations of the command's options and the server's metrics."""

from studies.page import Part
from studies.reference import metrics, options

PARTS = (
    Part("docs/operations.md", metrics.part, "metrics"),
    Part("docs/operations.md", options.part, "options"),
)
