"""Does the load test agree with other load generators? See README.md.

run measures the tools in turns, results.jsonl keeps the figures, and report writes the page.
"""
