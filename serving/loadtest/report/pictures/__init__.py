"""The pictures of the HTML report, as SVG."""

from hangtag.page.drawing import series_variable
from hangtag.serving.loadtest.report.pictures.latency import latency_by_percentile, latency_over_time
from hangtag.serving.loadtest.report.pictures.overview import accuracy_and_latency, throughput_and_latency

__all__ = [
    "accuracy_and_latency",
    "latency_by_percentile",
    "latency_over_time",
    "series_variable",
    "throughput_and_latency",
]
