"""Compares results: ratios between a test's targets or between two saved tests, and the conditions of --fail-if."""
