"""How well the shipped models' probabilities match their accuracy, and what a temperature makes of it.

run measures, report writes its part of docs/models.md.
"""
