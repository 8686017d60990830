"""The HTML report about one export: the checks, how far answers are from PyTorch's, and how fast the file is."""

from hangtag.export.report.page import report_path, write_file_report, write_run_report

__all__ = ["report_path", "write_file_report", "write_run_report"]
