"""Pure functions and values: percentiles, early stopping, t intervals, duration histograms, server timings."""
