"""Experiments, benchmarks and the pages made of their results: `python -m studies` lists them.

Nothing of it is in the wheel. One folder per experiment: run measures, results.jsonl keeps, report writes.
"""
