"""Numbers as people read them: three significant digits, and always a unit."""

import math

NONE = "\N{EN DASH}"


def duration(seconds: float) -> str:
    """0.00042 is 420 µs, 0.0123 is 12.3 ms, 4.2 is 4.20 s. A dash for NaN."""
    if math.isnan(seconds):
        return NONE
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        # Compared after rounding, so that 999.9 µs is 1.00 ms and never 1000 µs.
        if float(f"{seconds * factor:.3g}") < 1000:
            return f"{three_digits(seconds * factor)} {unit}"
    return f"{three_digits(seconds)} s"


def three_digits(value: float) -> str:
    """1.23, 12.3, 123, 1,234: no more digits than the measurement has, and no scientific notation."""
    if math.isnan(value):
        return NONE
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(float(f"{value:.3g}")))))
    return f"{value:,.{min(decimals, 6)}f}"


def count(value: int) -> str:
    """12,345."""
    return f"{value:,}"


def times(ratio: float) -> str:
    """A ratio: 4.12x. A dash for NaN."""
    return NONE if math.isnan(ratio) else f"{three_digits(ratio)}\N{MULTIPLICATION SIGN}"


def ratio(value: float) -> str:
    """A ratio inside a sentence: two significant digits, 0.26, 2.0, 11, 1,234."""
    return f"{value:,.0f}" if abs(value) >= 9.95 else f"{value:#.2g}"
