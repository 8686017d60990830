"""Computes percentiles, early stopping, t intervals, duration histograms and server timings, with pure functions."""
