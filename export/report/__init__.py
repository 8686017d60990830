"""A page about one export: what was checked, how far answers are from PyTorch's, and how fast the file is."""

from hangtag.export.report.page import of_file, of_run

__all__ = ["of_file", "of_run"]
