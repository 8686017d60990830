"""Servers on three hosts, of which one fails in turn in each way that a host or its network can: what callers notice.

The hosts are network namespaces of this machine, and their cables a program of ours. run.py injects the faults,
report.py writes the part of docs/operations.md that has the figures.
"""
