"""Puts small faults into the product, one at a time, to check that a test fails: ``make mutants``.

The module ``draw`` lists faults, which cosmic-ray makes, in mutants.jsonl. The module ``run`` records for each fault
whether a test fails.
"""
