import math

import pytest

from hangtag.serving.loadtest import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00042, "420 µs"),
        (0.000001, "1.00 µs"),
        (0.0009999, "1.00 ms"),
        (0.0123, "12.3 ms"),
        (0.1234, "123 ms"),
        (0.9999, "1.00 s"),
        (4.2, "4.20 s"),
        (1234.5, "1,234 s"),
        (0.0, "0 µs"),
        (math.nan, units.NONE),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(("ratio", "text"), [(4.123, "4.12\u00d7"), (0.15, "0.150\u00d7"), (math.nan, units.NONE)])
def test_ratios(ratio: float, text: str) -> None:
    assert units.times(ratio) == text


def test_counts_have_thousands() -> None:
    assert units.count(12345) == "12,345"


@pytest.mark.parametrize(
    ("value", "text"), [(0.256, "0.26"), (2.0, "2.0"), (9.96, "10"), (11.4, "11"), (1234.0, "1,234")]
)
def test_ratios_in_sentences(value: float, text: str) -> None:
    assert units.ratio(value) == text
