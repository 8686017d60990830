"""Small faults that are put into the product one at a time, to see whether a test fails: ``make mutants``.

`mutants.jsonl` has the faults, which `draw` has drawn with cosmic-ray; `run` records what the tests say of each.
"""
