"""Pure functions on counted values: percentiles, early stopping, t intervals, histograms."""
