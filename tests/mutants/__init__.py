"""Puts small faults into the product, one at a time, to check that a test fails: ``make mutants``.

The module draw draws the faults with cosmic-ray into mutants.jsonl, and run records for each fault whether a test
fails.
"""
