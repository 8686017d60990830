"""The HTML report about one export: the checks, how far answers are from PyTorch's, and how fast the file is."""

from hangtag.export.report.page import write_file_report, write_run_report

__all__ = ["write_file_report", "write_run_report"]
