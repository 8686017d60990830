"""Experiments and benchmarks, and the pages with their results. `python -m studies` lists the experiments.

The wheel does not contain this folder. Each experiment has its own folder, except that the comparisons of servers share
the folder `bench`. In an experiment's folder, `run.py` measures, a .jsonl file stores the results, `report.py` writes
the pages, and README.md is the main page. The folder `finished` has the pages and results of finished experiments as
plain text.
"""
