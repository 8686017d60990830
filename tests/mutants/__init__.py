"""Small faults that are put into the product one at a time, to see whether a test fails: ``make mutants``.

`mutants.jsonl` contains the faults. `draw` draws them with cosmic-ray, and `run` records the tests' results for each.
"""
