"""Formats figures with three significant digits and a unit."""

import math

NONE = "\N{EN DASH}"  # The text for NaN.


def duration(seconds: float) -> str:
    """Format a duration: 0.00042 is 420 µs, 0.0123 is 12.3 ms, 4.2 is 4.20 s."""
    if math.isnan(seconds):
        return NONE
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        # The figure is rounded before the comparison, so that 999.9 µs is shown as 1.00 ms and never as 1000 µs.
        if float(f"{seconds * factor:.3g}") < 1000:
            return f"{three_digits(seconds * factor)} {unit}"
    return f"{three_digits(seconds)} s"


def three_digits(value: float) -> str:
    """Format a number with three digits and without an exponent: 1.23, 12.3, 123, 1,234."""
    if math.isnan(value):
        return NONE
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(float(f"{value:.3g}")))))
    return f"{value:,.{min(decimals, 6)}f}"


def duration_span(low: float, high: float) -> str:
    """Format an interval of durations, such as 1.20 to 1.40 ms. The text is empty if the interval is unknown."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    unit = duration(high).rpartition(" ")[2]
    return f"{duration(low).removesuffix(f' {unit}')} to {duration(high)}"


def times(ratio: float) -> str:
    """Format a ratio for a table, such as 4.12x. A ratio to zero is infinite, and is formatted like NaN."""
    return f"{three_digits(ratio)}\N{MULTIPLICATION SIGN}" if math.isfinite(ratio) else NONE


def ratio(value: float) -> str:
    """Format a ratio for a sentence, with two significant digits: 0.26, 2.0, 11, 1,234."""
    return f"{value:,.0f}" if abs(value) >= 9.95 else f"{value:#.2g}"
