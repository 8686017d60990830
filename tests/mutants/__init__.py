"""Puts small faults into the product, one at a time, to check that a test fails: ``make mutants``.

mutants.jsonl lists the faults, which come from cosmic-ray. The module ``run`` records for each fault whether a test
fails.
"""
