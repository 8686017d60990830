"""Whether losses that know which labels are alike make mistakes milder: docs/mistakes.md.

run trains lstm and evaluates the shipped models, results.jsonl keeps the figures, report writes the page.
"""
