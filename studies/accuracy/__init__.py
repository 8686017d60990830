"""How accurate each network is, with the study's recipe and with the best one: docs/study.md.

run trains, results.jsonl keeps the figures, report writes the page.
"""
