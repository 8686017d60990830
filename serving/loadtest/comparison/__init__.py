"""Compares a test's targets or two saved tests by ratios, and judges the conditions of --fail-if."""
