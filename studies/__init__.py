"""Experiments, benchmarks, and the pages that show their results. `python -m studies` lists the experiments.

The wheel does not contain this folder. Each experiment has a folder; those that run servers share bench. In a folder,
run measures, a .jsonl file keeps the results, report writes pages, and README.md is the main page. finished/ has the
pages and results of finished experiments as plain text.
"""
