"""The tables of docs/operations.md that are made from declarations: options, environment variables and metrics.

report writes the page; there is nothing to run.
"""
