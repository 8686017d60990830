"""Pure functions on counted values: percentiles, early stopping, bootstrap intervals, histograms."""
