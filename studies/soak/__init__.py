"""Does the server keep its promises for an hour, while models change and workers are killed?

`run.py` starts the servers. `load.py` makes the calls, whose kinds are defined in `calls.py`. At the same time,
`changes.py` replaces models and kills workers. `summary.py` computes a line of results.jsonl from the measurement, and
`report.py` writes README.md.
"""
