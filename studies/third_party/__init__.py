"""What models that nobody here made are like in int8 and fp16: a part of docs/export.md.

run converts the models of two packages and records what the gate found; results.jsonl keeps it, report writes the page.
"""
