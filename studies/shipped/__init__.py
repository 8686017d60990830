"""What the models in models/ reach and how fast they are served: docs/models.md and the README's table.

run load-tests them, results.jsonl keeps the figures, report writes the pages from these and from the models' own files.
"""
