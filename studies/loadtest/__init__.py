"""Whether the load test agrees with other load generators, and how many calls it can make: a part of docs/loadtest.md.

run measures both (agreement and generators), results.jsonl keeps the figures, report writes the page.
"""
