"""How long a training step takes, compared with Keras and plain PyTorch: a section of docs/study.md.

run measures and results.jsonl keeps the figures; the experiment `accuracy` writes the page. profile shows where a step
of lstm spends its time, and what other ways to do it take.
"""
